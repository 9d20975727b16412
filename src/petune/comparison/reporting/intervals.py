"""Paired bootstrap: how far apart two methods are on the same rows, and how sure that is.

Efron & Tibshirani, *An Introduction to the Bootstrap* (1993), the percentile interval. Both methods answered the same
rows, so a resample draws rows, and the difference is taken on each; where both ran with the same seeds, a resample
draws seeds as well, because a training repeated with another seed would have ended elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from petune.comparison.reporting.contenders import Contender

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 1993
_CHUNK = 2**22
"""Scores drawn at once, which bounds the memory."""


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """The mean score of one method less that of another, with its interval."""

    mean: float
    low: float
    high: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0: the rows and seeds do not tell the two apart."""
        return self.low <= 0 <= self.high


def difference(ours: Contender, other: Contender) -> Difference | None:
    """Return the difference of two contenders' scores; None where they have no rows or no seed in common."""
    pairs = _paired_scores(ours, other)
    if not pairs or len({len(scores) for pair in pairs for scores in pair}) != 1:
        return None
    return bootstrap(np.array([first for first, _ in pairs]), np.array([second for _, second in pairs]))


def _paired_scores(ours: Contender, other: Contender) -> list[tuple[Sequence[float], Sequence[float]]]:
    first = {trial.seed: trial.scores for trial in ours.done if trial.scores}
    second = {trial.seed: trial.scores for trial in other.done if trial.scores}
    # What is not trained depends on no seed: its one trial stands against each of the other's.
    if ours.untrained and len(first) == 1:
        first = dict.fromkeys(second, *first.values())
    elif other.untrained and len(second) == 1:
        second = dict.fromkeys(first, *second.values())
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]


def bootstrap(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference | None:
    """Return the mean of ``first - second`` and its percentile interval; both [seeds, rows], paired by place.

    The draws are the same at every call, so that a report can be repeated.
    """
    gaps = first - second
    if not np.isfinite(gaps).all():
        return None
    seeds, rows = gaps.shape
    generator = np.random.default_rng(_SEED)
    at_once = max(1, _CHUNK // gaps.size)
    means = []
    for start in range(0, RESAMPLES, at_once):
        draws = min(at_once, RESAMPLES - start)
        by_seed = gaps[:, generator.integers(rows, size=(draws, rows))].mean(axis=2)
        drawn_seeds = generator.integers(seeds, size=(seeds, draws))
        means.append(np.take_along_axis(by_seed, drawn_seeds, axis=0).mean(axis=0))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(gaps.mean()), float(low), float(high))
