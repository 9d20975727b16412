"""CPUs that are slow, or fast, at products in half precision, whatever the machine is."""

import pytest

from petune.kernels import wide_products


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take half precision to be slow."""
    monkeypatch.setattr(wide_products, "_is_slow", dict.fromkeys(wide_products.HALVES, True))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take half precision to be fast."""
    monkeypatch.setattr(wide_products, "_is_slow", dict.fromkeys(wide_products.HALVES, False))
