"""What the records say about a claim, and about a claim in one place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiment.records import paired
from experiment.resampling import Interval, Scores, interval
from petune.comparison.record import Trial

Status = Literal["reproduced", "not reproduced", "not decided", "not run yet"]

ENOUGH_SEEDS = 2
"""Fewer decide nothing where what is compared has no rows to draw from."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found in one place."""

    where: str
    status: Status
    figures: str
    seeds: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a claim."""

    evidence: tuple[Evidence, ...] = ()

    @property
    def status(self) -> Status:
        """The status that all places which decide have; not decided where they differ."""
        decided = {own.status for own in self.evidence} & {"reproduced", "not reproduced"}
        if len(decided) == 1:
            return decided.pop()
        return "not decided" if self.evidence else "not run yet"

    @property
    def told(self) -> str:
        """The status, and in how many places it was found where there are several."""
        if len(self.evidence) < 2:
            return self.status
        agreeing = sum(own.status == self.status for own in self.evidence)
        if {"reproduced", "not reproduced"} <= {own.status for own in self.evidence}:
            return "not decided: places contradict each other"
        return f"{self.status}, in {agreeing} of {len(self.evidence)} places"


def judged(found: Interval) -> Status:
    """Return what an interval says of a figure that the claim wants above 0."""
    return "reproduced" if found.low > 0 else "not reproduced" if found.high < 0 else "not decided"


def weighed(where: str, says: str, statistic: Callable[..., Any], *groups: Sequence[Scores]) -> Evidence:
    """Return the evidence of a figure that the claim wants above 0.

    Args:
        where: the place.
        says: what the figure is.
        statistic: of the means, as :func:`experiment.resampling.interval` takes it.
        groups: the scores.
    """
    found = interval(statistic, *groups)
    return Evidence(where, judged(found), f"{says} {told(found)}", found.seeds)


def advantage(where: str, says: str, better: Sequence[Trial], worse: Sequence[Trial]) -> list[Evidence]:
    """Return the evidence that one is better than the other; none where one was not run."""
    tables = paired(better, worse)
    return [] if tables is None else [weighed(where, says, lambda one, other: one - other, tables)]


def told(found: Interval) -> str:
    """Return a figure with its interval."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
