"""Sizes in bytes as people write them: `2GiB`, `500MB`, `1073741824`."""

import re

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def read_bytes(text: str) -> int:
    """Return the bytes that ``text`` means.

    Raises:
        ValueError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = None if match is None else _UNITS.get(match[2].lower())
    if match is None or unit is None or float(match[1]) == 0:
        raise ValueError(f"'{text}' is no size; write it like 500MB, 2GiB or 1.5TB")
    return int(float(match[1]) * unit)


def shown_bytes(count: int) -> str:
    """Return ``count`` bytes as people read them."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        size = count / _UNITS[unit.lower()]
        if size >= 1:
            return f"{size:.1f} {unit}"
    return f"{count} bytes"
