"""The axes of a chart: where a value lies, and the round values that are written along it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

ZERO_ROOM = 26.0
"""Length at the beginning of a logarithmic axis that is kept for 0, which has no logarithm."""


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from ``low`` at ``start`` to ``high`` at ``end``; lengths are in units of the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    with_zero: bool = False
    """Whether 0 has a place of its own at the beginning of a logarithmic axis."""

    def place(self, value: float) -> float:
        """Return where a value lies; what lies beyond the axis is put at its end."""
        if self.logarithmic and value <= 0:
            return self.start
        low, high = self._of(self.low), self._of(self.high)
        part = min(max((self._of(value) - low) / (high - low), 0.0), 1.0)
        start = self.start + math.copysign(ZERO_ROOM, self.end - self.start) if self.with_zero else self.start
        return start + part * (self.end - start)

    def _of(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def ticks(self, most: int = 5) -> list[float]:
        """Return round values on the axis, at most about ``most``."""
        if not self.logarithmic:
            return _round_values(self.low, self.high, most)
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1.0, 2.0, 5.0), (1.0,)):
            values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= most:
                break
        every = math.ceil(len(inside) / most) if inside else 1
        return ([0.0] if self.with_zero else []) + inside[::every]


def scale_of(values: Iterable[float], start: float, end: float, *, margin: float = 0.08) -> Scale:
    """Return an axis that holds the values; logarithmic where none is negative and they differ tenfold or more."""
    known = sorted(value for value in values if math.isfinite(value))
    positive = [value for value in known if value > 0]
    if positive and known[0] >= 0 and positive[-1] / positive[0] >= 10:
        room = (positive[-1] / positive[0]) ** margin
        return Scale(positive[0] / room, positive[-1] * room, start, end, logarithmic=True, with_zero=known[0] == 0)
    low, high = (known[0], known[-1]) if known else (0.0, 1.0)
    room = margin * (high - low) or abs(high) * margin or 1.0
    return Scale(low - room, high + room, start, end)


def linear(values: Iterable[float], start: float, end: float, *, margin: float = 0.08) -> Scale:
    """Return a linear axis that holds the values."""
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    room = margin * (max(known) - min(known)) or abs(known[0]) * margin or 1.0
    return Scale(min(known) - room, max(known) + room, start, end)


def _round_values(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]
