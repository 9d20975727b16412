"""How sure a figure is that is made of several means: a bootstrap over test rows and seeds.

Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), the percentile interval. What was measured on the same
rows with the same seeds is drawn together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""[seeds, rows]"""

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float
    seeds: int
    """Seeds that it rests on."""


def interval(statistic: Callable[..., Any], *groups: Sequence[Scores]) -> Interval:
    """Return a statistic of means with its interval.

    Args:
        statistic: takes an array of means for each table of each group, in their order, and returns an array.
        groups: tables [seeds, rows]; those of one group have rows and seeds in common, except that one with a single
            seed stands for each seed.
    """
    plain = [np.array([table.mean()]) for group in groups for table in group]
    generator = np.random.default_rng(1993)
    drawn = [means for group in groups for means in _drawn(group, generator)]
    low, high = np.quantile(statistic(*drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    seeds = min(max(len(table) for table in group) for group in groups)
    return Interval(float(statistic(*plain)[0]), float(low), float(high), seeds)


def _drawn(group: Sequence[Scores], generator: np.random.Generator) -> list[NDArray[np.float64]]:
    """Return the means of each table over the same draws of rows and seeds."""
    seeds, rows = max(len(table) for table in group), group[0].shape[1]
    by_row = generator.integers(rows, size=(DRAWS, rows))
    by_seed = generator.integers(seeds, size=(DRAWS, seeds))
    found = []
    for table in group:
        if len(table) not in (1, seeds) or table.shape[1] != rows:
            raise ValueError(f"tables of {table.shape} and of {seeds} seeds and {rows} rows are not paired")
        means = np.stack([own[by_row].mean(axis=1) for own in np.broadcast_to(table, (seeds, rows))], axis=1)
        found.append(np.take_along_axis(means, by_seed, axis=1).mean(axis=1))
    return found
