"""Sizes as people write them."""

import pytest

from petune.training.byte_sizes import read_bytes, shown_bytes


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GiB", 2**31), ("1.5 gib", 3 * 2**29), ("500MB", 5 * 10**8), ("7", 7), ("1tb", 10**12), (" 3KiB ", 3072)],
)
def test_sizes(text: str, count: int) -> None:
    assert read_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "2 gigs", "-1GiB", "0MB", "GiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size; write it like 500MB, 2GiB or 1\.5TB"):
        read_bytes(text)


@pytest.mark.parametrize(("count", "text"), [(12, "12 bytes"), (1536, "1.5 KiB"), (2**31, "2.0 GiB")])
def test_shown(count: int, text: str) -> None:
    assert shown_bytes(count) == text
