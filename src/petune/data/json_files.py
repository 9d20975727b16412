"""JSON Lines and JSON files to rows, and back; every bad line is found in one pass and named by its physical line."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from petune.data.json_parser import StrictParser, shortened
from petune.data.problems import Problems, RowProblem
from petune.data.rows import Rows, columns_of
from petune.data.text_files import decode_line, decode_whole, without_bom
from petune.errors import DataError

LONGEST_LINE = 16 * 2**20
"""Bytes of the longest line that is read; a longer one is a problem of that line."""

_ONE_A_LINE = "write one complete JSON object on each line"
_STOPPED = "mend it (nothing after it was read)"
_SPACE = " \t\r\n"


def read_jsonl(path: Path, name: str, problems: Problems) -> Rows:
    """Read one JSON object a line; blank lines are skipped.

    Raises:
        DataError: the file as a whole is of another kind.
    """
    parser = StrictParser()
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    first = True
    with path.open("rb") as file:
        for number, line in _lines(file, name):
            if isinstance(line, bytes) and not line.strip():
                continue
            if first and isinstance(line, bytes) and line.strip() in (b"[", b"{"):
                raise DataError(
                    f"{name}:{number}: this is one JSON document over many lines, where one object a line "
                    "is expected; rename the file to .json and let it hold a list of objects"
                )
            first = False
            value = line if isinstance(line, RowProblem) else _parse_line(parser, line)
            if isinstance(value, RowProblem):
                problems.add(name, number, f"{name}:{number}", value)
            else:
                rows.append(value)
                numbers.append(number)
    return Rows(name, f"{name}:", columns_of(rows), rows, numbers)


def read_json(path: Path, name: str, problems: Problems) -> Rows:
    """Read a JSON list of objects, or one object a line as :func:`read_jsonl` does.

    Raises:
        DataError: the file holds neither, or is not UTF-8.
    """
    text = decode_whole(path.read_bytes(), name)
    start = _after_space(text, 0)
    if text.startswith("[", start):
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        places: list[int] = []
        for place, (number, value) in enumerate(_elements(text, start + 1), 1):
            if isinstance(value, RowProblem):
                problems.add(name, number, f"{name}:{number}", value)
            else:
                rows.append(value)
                numbers.append(number)
                places.append(place)
        if len(set(numbers)) < len(numbers):  # lines do not tell them apart
            return Rows(name, f"{name}:row ", columns_of(rows), rows, places)
        return Rows(name, f"{name}:", columns_of(rows), rows, numbers)
    first_line = text[start:].partition("\n")[0]
    if text.startswith("{", start) and isinstance(_parse_line(StrictParser(), first_line.encode()), dict):
        return read_jsonl(path, name, problems)
    raise DataError(
        f"{name}:{text.count(chr(10), 0, start) + 1}: expected a list of objects, [{{...}}, {{...}}], or "
        f"one object a line, got '{shortened(text[start:])}'; put the rows in a list"
    )


def json_line(fields: Mapping[str, Any]) -> str:
    """Return a row as a line that :func:`read_jsonl` reads.

    What JSON has no word for is written as a template would write it, and NaN or an infinity as no value (null).
    """
    return json.dumps(_without_nan(fields), ensure_ascii=False, default=str) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes | RowProblem]]:
    """Yield the physical lines with their 1-based numbers, without reading an endless one into memory."""
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if number == 1:
            line = without_bom(line, name)
        if len(line) <= LONGEST_LINE:
            yield number, line
            continue
        size = len(line)
        while not line.endswith(b"\n") and (line := file.readline(2**20)):
            size += len(line)
        limit = LONGEST_LINE // 2**20
        yield (
            number,
            RowProblem(
                f"the line has {size / 2**20:.1f} MiB, the limit is {limit} MiB",
                "split the row or leave it out",
            ),
        )


def _parse_line(parser: StrictParser, line: bytes) -> dict[str, Any] | RowProblem:
    try:
        text = decode_line(line).strip(_SPACE)
        value, end = parser.parse(text)
    except RowProblem as problem:
        return problem
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
            return RowProblem(f"the JSON is cut off (at column {error.colno})", "restore its end or delete the line")
        return RowProblem(f"not valid JSON at column {error.colno}: {error.msg}", _ONE_A_LINE)
    if isinstance(value, dict) and end < len(text):
        return RowProblem(f"more text after the object, at column {end + 1}", _ONE_A_LINE)
    return value


def _elements(text: str, position: int) -> Iterator[tuple[int, dict[str, Any] | RowProblem]]:
    """Yield the elements of a list that begins before ``position``, each with the line it starts on."""
    parser = StrictParser()
    line, counted = 1, 0
    position = _after_space(text, position)
    if text.startswith("]", position):
        position += 1
    else:
        separator = ","
        while separator == ",":
            position = _after_space(text, position)
            line, counted = line + text.count("\n", counted, position), position
            try:
                value, position = parser.parse(text, position)
            except RowProblem as problem:
                yield line, RowProblem(problem.reason, f"{problem.fix} (nothing after it was read)")
                return
            except json.JSONDecodeError as error:
                yield (
                    error.lineno,
                    RowProblem(f"not valid JSON at column {error.colno}: {error.msg}", _STOPPED),
                )
                return
            yield line, value
            position = _after_space(text, position)
            separator = text[position : position + 1]
            position += 1
        if separator != "]":
            yield line, RowProblem("expected ',' or ']' after this element of the list", _STOPPED)
            return
    rest = _after_space(text, position)
    if rest < len(text):
        yield (
            line + text.count("\n", counted, rest),
            RowProblem("text after the end of the list", "delete it"),
        )


def _after_space(text: str, position: int) -> int:
    while text[position : position + 1] and text[position] in _SPACE:
        position += 1
    return position
