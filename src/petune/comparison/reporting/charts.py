"""Charts of quality: the distance from the best, and what quality costs."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender, Spread
from petune.comparison.reporting.label_places import Box, Label, place_labels
from petune.comparison.reporting.pareto import front
from petune.comparison.reporting.quantities import count, duration, number, signed, size, tick
from petune.comparison.reporting.scales import Scale, linear, scale_of
from petune.comparison.reporting.standing import Standing
from petune.comparison.reporting.svg import Drawing, shortened

WIDTH = 380.0
_NAMES = 160.0
_ROW = 27.0
_TOP = 8.0


def distance_chart(standing: Standing, name: str) -> str | None:
    """Draw each contender's distance from the best with its interval; None where no distance is known.

    Args:
        standing: the contenders of one base.
        name: of the drawing, unique in the page.
    """
    rows = [contender for contender in standing.ranked if contender.number in standing.differences]
    best = standing.best
    if not rows or best is None:
        return None
    gaps = standing.differences
    bottom = _TOP + _ROW * (len(rows) + 1)
    scale = linear([0.0, *(end for c in rows for end in (gaps[c.number].low, gaps[c.number].high))], _NAMES, WIDTH - 10)
    words = "; ".join(f"{c.label} {signed(gaps[c.number].mean)}" for c in rows)
    title = f"Distance from {best.label} in {standing.metric}, with 95 % intervals"
    drawing = Drawing(name, WIDTH, bottom + 40, title, words)
    for value in scale.ticks(4):
        drawing.line("grid", scale.place(value), _TOP, scale.place(value), bottom)
        drawing.text("tick", scale.place(value), bottom + 15, tick(value), "middle")
    drawing.line("zero", scale.place(0), _TOP, scale.place(0), bottom)
    for place, contender in enumerate((best, *rows)):
        y = _TOP + _ROW * (place + 0.5)
        drawing.text("name", 0, y + 4, shortened(contender.label, _NAMES - 12))
        if contender == best:
            drawing.circle("dot front", scale.place(0), y, 5, f"{best.label}: the best")
            continue
        gap = gaps[contender.number]
        kind = "near" if gap.within_noise else "far"
        hint = f"{contender.label}: {signed(gap.mean)}, 95 % interval {signed(gap.low)} to {signed(gap.high)}"
        drawing.line(f"interval {kind}", scale.place(gap.low), y, scale.place(gap.high), y)
        drawing.circle(f"dot {kind}", scale.place(gap.mean), y, 5, hint)
    ends = ("← worse", "better →") if standing.higher_is_better else ("← better", "worse →")
    drawing.text("axis-name", _NAMES, bottom + 33, ends[0])
    drawing.text("axis-name", WIDTH - 10, bottom + 33, ends[1], "end")
    return drawing.markup()


@final
@dataclass(frozen=True, slots=True)
class Expense:
    """A cost against which quality is drawn."""

    name: str
    title: str
    value: Callable[[Trial], float | None]
    write: Callable[[float], str]

    units: tuple[tuple[float, str], ...]
    """The units an axis may be written in, small to large."""

    def unit(self, values: Iterable[float]) -> tuple[float, str]:
        """Return the largest unit in which the largest value is 2 or more."""
        most = max(values)
        return next((unit for unit in reversed(self.units) if most >= 2 * unit[0]), self.units[0])


EXPENSES = (
    Expense("parameters", "Trainable parameters", lambda trial: trial.trainable_parameters, count, ((1, ""),)),
    Expense("memory", "Peak memory", lambda t: t.peak_memory_bytes, size, ((2**20, "MiB"), (2**30, "GiB"))),
    Expense("time", "Training time", lambda trial: trial.seconds, duration, ((1, "s"), (60, "min"), (3600, "h"))),
)
"""What quality is drawn against."""

_LEFT, _RIGHT, _HEIGHT, _BOTTOM = 40.0, WIDTH - 8.0, 330.0, 284.0


@final
@dataclass(frozen=True, slots=True)
class _Point:
    contender: Contender
    cost: float
    quality: Spread


def cost_chart(standing: Standing, expense: Expense, name: str) -> str | None:
    """Draw quality, better upwards, against a cost, with the Pareto front; None where fewer than two are known."""
    points = [
        _Point(contender, cost, quality)
        for contender in standing.ranked
        if (cost := contender.mean(expense.value)) is not None and (quality := contender.quality) is not None
        if math.isfinite(quality.mean)
    ]
    if len(points) < 2:
        return None
    unit, unit_name = expense.unit(point.cost for point in points)
    across = scale_of([point.cost / unit for point in points], _LEFT + 6, _RIGHT, margin=0.12)
    ends = [end for point in points for end in (point.quality.low, point.quality.high)]
    upwards = linear(ends, *((_BOTTOM, 14.0) if standing.higher_is_better else (14.0, _BOTTOM)), margin=0.12)
    places = front([(p.cost, p.quality.mean) for p in points], higher_is_better=standing.higher_is_better)
    on_front = [points[place] for place in places]
    title = f"{standing.metric} against {expense.title.lower()}"
    words = "; ".join(f"{p.contender.label} {number(p.quality.mean)} at {expense.write(p.cost)}" for p in points)
    words += f". On the Pareto front: {', '.join(point.contender.label for point in on_front)}."
    drawing = Drawing(name, WIDTH, _HEIGHT, title, words)
    _frame(drawing, across, upwards)
    measured_in = f", {unit_name}" if unit_name else ""
    drawing.text("axis-name", _RIGHT, _HEIGHT - 6, f"{expense.title}{measured_in} (less is better)", "end")
    centres = {point: (across.place(point.cost / unit), upwards.place(point.quality.mean)) for point in points}
    steps = _steps([centres[point] for point in on_front])
    drawing.path("front-line", steps)
    for point, (x, _) in centres.items():
        drawing.line("spread", x, upwards.place(point.quality.low), x, upwards.place(point.quality.high))
    frame = Box(_LEFT + 2, 4, _RIGHT, _BOTTOM - 2)
    labels = [Label(point.contender.label, *centre) for point, centre in centres.items()]
    placed = place_labels(labels, frame, [_along(*pair) for pair in pairwise(steps)])
    for (point, (x, y)), label in zip(centres.items(), placed, strict=True):
        hint = f"{point.contender.label}: {number(point.quality.mean)} at {expense.write(point.cost)}"
        if label.leader is not None:
            drawing.line("leader", x, y, *label.leader)
        drawing.circle("dot front" if point in on_front else "dot far", x, y, 5, hint)
        drawing.text("name", label.x, label.y, point.contender.label)
    return drawing.markup()


def _frame(drawing: Drawing, across: Scale, upwards: Scale) -> None:
    for value in upwards.ticks(5):
        drawing.line("grid", _LEFT, upwards.place(value), _RIGHT, upwards.place(value))
        drawing.text("tick", _LEFT - 6, upwards.place(value) + 4, tick(value), "end")
    for value in across.ticks(5):
        x = across.place(value)
        drawing.line("zero", x, _BOTTOM, x, _BOTTOM + 4)
        anchor = "end" if x > _RIGHT - 20 else "start" if x < _LEFT + 10 else "middle"
        drawing.text("tick", x, _BOTTOM + 17, tick(value), anchor)
    drawing.line("zero", _LEFT, _BOTTOM, _RIGHT, _BOTTOM)


def _steps(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the front as a staircase: until a dearer method comes, nothing better is to be had."""
    steps = [corners[0]]
    for x, y in corners[1:]:
        steps += [(x, steps[-1][1]), (x, y)]
    return [*steps, (_RIGHT, steps[-1][1])]


def _along(start: tuple[float, float], end: tuple[float, float]) -> Box:
    (x1, y1), (x2, y2) = start, end
    return Box(min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1)
