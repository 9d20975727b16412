"""CPUs that are slow, fast, or neither, at products in half precision, whatever the machine is."""

import pytest

from petune.kernels import wide_products


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take half precision to be slow."""
    monkeypatch.setattr(wide_products, "_least_rows", dict.fromkeys(wide_products.HALVES, wide_products.LEAST_ROWS))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take half precision to be fast."""
    monkeypatch.setattr(wide_products, "_least_rows", dict.fromkeys(wide_products.HALVES, wide_products.NEVER))


@pytest.fixture
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take half precision to be no faster than float32, with instructions."""
    rows = wide_products.LEAST_ROWS_WITH_INSTRUCTIONS
    monkeypatch.setattr(wide_products, "_least_rows", dict.fromkeys(wide_products.HALVES, rows))
