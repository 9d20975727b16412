"""The few contenders that most readers look for: the best, and the cheapest of those within its noise."""

from dataclasses import dataclass
from typing import final

from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.quantities import duration, number, size
from petune.comparison.reporting.standing import Standing


@final
@dataclass(frozen=True, slots=True)
class Highlight:
    """One contender and the figure for which it stands out."""

    title: str
    contender: Contender
    figure: str


def highlights_of(standing: Standing) -> list[Highlight]:
    """Return the best and, where others are within its noise, the smallest, and the leanest and fastest if clear."""
    best = standing.best
    if best is None or best.quality is None:
        return []
    found = [Highlight("Best", best, f"{standing.metric} {number(best.quality.mean)}")]
    for title, find, value, write in (
        ("Smallest within its noise", standing.least, lambda trial: trial.bytes_stored, size),
        ("Least memory within its noise", standing.clearly_least, lambda trial: trial.peak_memory_bytes, size),
        ("Least time within its noise", standing.clearly_least, lambda trial: trial.seconds, duration),
    ):
        contender = find(value)
        figure = None if contender is None else contender.mean(value)
        if contender is not None and figure is not None:
            found.append(Highlight(title, contender, write(figure)))
    return found
