"""Bytes of text files to strings: UTF-8 and nothing else, every other thing named."""

from petune.data.problems import RowProblem
from petune.errors import DataError

_BOM = b"\xef\xbb\xbf"


def without_bom(start: bytes, name: str) -> bytes:
    """Return the first bytes of a file without their UTF-8 mark.

    Raises:
        DataError: the file is UTF-16.
    """
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}:1: the file is UTF-16; save it as UTF-8")
    return start.removeprefix(_BOM)


def decode_line(line: bytes) -> str:
    """Decode one line.

    Raises:
        RowProblem: it is not UTF-8, or holds a NUL.
    """
    if b"\0" in line:
        raise RowProblem(f"a NUL byte (byte {line.index(0) + 1} of the line)", "remove it, the file may be damaged")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} of the line is {line[error.start]:#04x}"
        raise RowProblem(f"not UTF-8: {found}", "save the file as UTF-8") from None


def decode_whole(raw: bytes, name: str) -> str:
    """Decode a whole file.

    Raises:
        DataError: it is not UTF-8, or holds a NUL.
    """
    raw = without_bom(raw, name)
    bad = raw.find(b"\0")
    reason, fix = "a NUL byte", "remove it, the file may be damaged"
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        bad, reason, fix = error.start, f"not UTF-8: byte {raw[error.start]:#04x}", "save the file as UTF-8"
    if bad >= 0:
        raise DataError(f"{name}:{raw.count(bytes([10]), 0, bad) + 1}: {reason}; {fix}")
    return text
