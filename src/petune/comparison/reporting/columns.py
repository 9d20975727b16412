"""The columns of the report's tables: what each says of a contender, in which unit, and which end of it is better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.quantities import MISSING
from petune.comparison.reporting.sentences import Place
from petune.comparison.reporting.standing import Standing

Better = Literal["low", "high"]


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place of a table."""

    text: str

    notes: tuple[str, ...] = ()
    """Smaller lines below it."""

    leads: bool = False
    """Whether no other contender's figure is better."""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """One figure of the contenders."""

    head: str

    meaning: str
    """One line: what it says, and its unit."""

    cell: Callable[[Contender, Standing], Cell | None]
    """What to write; None where the contender has no such figure."""

    figure: Callable[[Contender], float | None] | None = None
    """The number by which the best of the column is found."""

    better: Better | None = None
    """Which end of it is better; None where neither is."""

    per_token: bool = False
    """Whether it is a loss per token, which can be compared within one vocabulary alone."""


@final
@dataclass(frozen=True, slots=True)
class Table:
    """Columns that belong together."""

    name: Place

    title: str
    columns: tuple[Column, ...]


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A contender's cells in one table."""

    contender: Contender
    cells: tuple[Cell, ...]


def lines_of(table: Table, standing: Standing) -> list[Line]:
    """Return a line for each contender; an empty list where no contender has a figure for any column."""
    grid = [[column.cell(c, standing) for column in table.columns] for c in standing.contenders]
    if not any(cell for row in grid for cell in row):
        return []
    leading = [_leading(column, standing) for column in table.columns]
    return [
        Line(c, tuple(_finished(cell, c, text) for cell, text in zip(row, leading, strict=True)))
        for c, row in zip(standing.contenders, grid, strict=True)
    ]


def _finished(cell: Cell | None, contender: Contender, leading: str | None) -> Cell:
    if cell is None:
        return Cell(MISSING)
    return Cell(cell.text, cell.notes, not contender.untrained and cell.text == leading)


def _leading(column: Column, standing: Standing) -> str | None:
    """Return what the best figure of the column reads; None where it sets few apart.

    The untrained base does not take part: that it costs nothing is no merit.
    """
    if column.figure is None or column.better is None:
        return None
    alike = [c for c in standing.ranked if not column.per_token or c.vocabulary == standing.vocabulary]
    figures = {c: v for c in alike if not c.untrained and (v := column.figure(c)) is not None}
    if len(figures) < 2:
        return None
    best = (min if column.better == "low" else max)(figures, key=lambda contender: figures[contender])
    written = [cell.text for c in figures if (cell := column.cell(c, standing)) is not None]
    leading = column.cell(best, standing)
    return None if leading is None or written.count(leading.text) > len(written) / 2 else leading.text


def mean_column(
    head: str,
    meaning: str,
    value: Callable[[Trial], float | None],
    write: Callable[[float], str],
    better: Better | None = None,
    *,
    ranges: bool = False,
    per_token: bool = False,
) -> Column:
    """Return a column with the mean of a figure over the seeds and, if asked for, its range below."""

    def cell(contender: Contender, standing: Standing) -> Cell | None:
        spread = contender.spread(value)
        if spread is None:
            return None
        varies = ranges and write(spread.low) != write(spread.high)
        return Cell(write(spread.mean), (f"{write(spread.low)} to {write(spread.high)}",) if varies else ())

    return Column(head, meaning, cell, lambda contender: contender.mean(value), better, per_token)
