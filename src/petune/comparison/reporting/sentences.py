"""A statement of the report's reading, and how its words are put together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

from petune.comparison.reporting.contenders import Contender

Place = Literal["quality", "learning", "cost", "forgetting", "search"]
"""The tables of the report, by their names in links."""


@final
@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement, made from figures alone."""

    text: str

    rows: tuple[Contender, ...]
    """The rows whose figures it states."""

    place: Place = "quality"
    """The table in which those figures stand."""

    @property
    def links(self) -> tuple[tuple[Contender, str], ...]:
        """Each row with its name in links."""
        return tuple((contender, anchor(contender, self.place)) for contender in self.rows)


def anchor(contender: Contender, place: Place) -> str:
    """Return the name in links of a contender's row in one table."""
    return f"row-{contender.number}-{place}"


def listed(words: Iterable[str]) -> str:
    """Return words as ``a, b and c``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def agreeing(contenders: Sequence[Contender], one: str, many: str) -> str:
    """Return the form of a verb for a method, or for several; a name may be of several itself (adapters)."""
    name = contenders[0].label.partition(" (")[0]
    return many if len(contenders) > 1 or name.endswith("s") else one


def labels(contenders: Sequence[Contender]) -> str:
    """Return the names of contenders as ``a, b and c``."""
    return listed(contender.label for contender in contenders)
