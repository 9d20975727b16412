"""Median and quartiles of a few measurements."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of some values, and where their middle half lies."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the median and the quartiles of ``values``."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def text(self, form: str = ".2f") -> str:
        """Return ``median (lower to upper)``."""
        return f"{self.median:{form}} ({self.lower:{form}} to {self.upper:{form}})"
