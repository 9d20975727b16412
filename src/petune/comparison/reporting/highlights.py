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
    """Return the best and, where others are within its noise, the smallest, leanest and fastest of them all."""
    best = standing.best
    if best is None or best.quality is None:
        return []
    found = [Highlight("Best", best, f"{standing.metric} {number(best.quality.mean)}")]
    for title, value, write in (
        ("Smallest within its noise", lambda trial: trial.bytes_stored, size),
        ("Least memory within its noise", lambda trial: trial.peak_memory_bytes, size),
        ("Least time within its noise", lambda trial: trial.seconds, duration),
    ):
        contender = standing.least(value)
        figure = None if contender is None else contender.mean(value)
        if contender is not None and figure is not None:
            found.append(Highlight(title, contender, write(figure)))
    return found
