"""Strict JSON: NaN, doubled keys, lone surrogates and endless nesting are problems here."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from petune.data.problems import RowProblem

DEEPEST = 100
"""Levels of nesting a row may have."""


class StrictParser:
    """Parses JSON objects; the problems it finds name a reason and a fix."""

    def __init__(self) -> None:
        self._findings: list[RowProblem] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def parse(self, text: str, position: int = 0) -> tuple[dict[str, Any] | RowProblem, int]:
        """Parse the value at a position.

        Returns:
            The object, or what is wrong with the value there; and the position after it.

        Raises:
            json.JSONDecodeError: the text is not JSON, so that nothing is known of where the value ends.
            RowProblem: nothing is known of where the value ends for another reason (nesting, a number
                without end).
        """
        self._findings.clear()
        try:
            value, end = self._decoder.raw_decode(text, position)
        except RecursionError:
            raise _too_deep() from None
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            raise RowProblem(f"a number cannot be read: {error}", "write it as a string") from None
        if self._findings:
            return self._findings[0], end
        if not isinstance(value, dict):
            return RowProblem(f"expected a JSON object, got {kind(value)}", 'write {"column": value, ...}'), end
        has_escapes = text.find("\\u", position, end) >= 0
        finding = check_value(value) if has_escapes or _may_be_deep(text, position, end) else None
        return (value if finding is None else finding), end

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            self._findings.append(
                RowProblem(f"key '{shortened(twice)}' is there twice in one object", "keep one of them")
            )
        return row

    def _constant(self, name: str) -> None:
        self._findings.append(RowProblem(f"{name} is not a JSON value", "write a number, null or a string"))

    def _float(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self._findings.append(
                RowProblem(f"the number {shortened(digits)} is beyond any float", "write a smaller one")
            )
        return number


def check_value(value: object) -> RowProblem | None:
    """Return what makes a parsed value unusable (NUL, a lone surrogate, deep nesting), else None."""
    level = [value]
    for _ in range(DEEPEST):
        for text in _texts(level):
            if "\0" in text:
                return RowProblem("a text holds a NUL character (\\u0000)", "remove it")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                code = f"\\u{ord(text[error.start]):04x}"
                return RowProblem(f"a text holds a lone surrogate ({code})", "write the whole pair or remove it")
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return None
    return _too_deep()


def kind(value: object) -> str:
    """Name the JSON kind of a value, with its article."""
    if value is None:
        return "null"
    names: list[tuple[type | tuple[type, ...], str]] = [
        (bool, "a boolean"),
        (str, "a string"),
        ((int, float), "a number"),
        ((list, tuple), "a list"),
        (dict, "an object"),
    ]
    return next((name for types, name in names if isinstance(value, types)), f"a {type(value).__name__}")


def shortened(text: str, width: int = 40) -> str:
    """Return text fit for one line of an error: printable, and cut where it is long."""
    shown = text if len(text) <= width else text[:width] + "…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def _texts(level: list[object]) -> Iterator[str]:
    for value in level:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (key for key in value if isinstance(key, str))


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def _may_be_deep(text: str, start: int, end: int) -> bool:
    return text.count("[", start, end) + text.count("{", start, end) >= DEEPEST


def _too_deep() -> RowProblem:
    return RowProblem(f"nested more than {DEEPEST} levels deep", "write it flat")
