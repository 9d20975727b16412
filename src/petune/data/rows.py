"""Rows as read, before anything is known of their layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rows:
    """The rows of one source, in its order."""

    source: str
    """File or hub id, as given, without ``#N``."""
    place: str
    """What origins begin with, up to the number: ``a.jsonl:``, ``a.parquet:row ``, ``id[train]:``."""
    columns: tuple[str, ...]
    """Names of all columns, in order of appearance."""
    rows: Sequence[Mapping[str, Any]]
    """The rows: column to value."""
    numbers: Sequence[int]
    """Of each row, its 1-based physical line (text files) or its 1-based number."""

    def origin(self, index: int) -> str:
        """Return where a row comes from, as errors name it."""
        return f"{self.place}{self.numbers[index]}"

    def select(self, indices: Sequence[int]) -> "Rows":
        """Return the rows of these indices, in this order."""
        rows = [self.rows[index] for index in indices]
        return Rows(self.source, self.place, self.columns, rows, [self.numbers[index] for index in indices])


def columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the names that occur in any row, in order of first appearance."""
    names: dict[str, None] = {}
    for row in rows:
        if row.keys() - names.keys():
            names.update(dict.fromkeys(row))
    return tuple(names)
