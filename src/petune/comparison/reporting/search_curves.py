"""The course of each search: what the metric on the development split was at each value that was tried."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender, value_text
from petune.comparison.reporting.quantities import amount, number, tick
from petune.comparison.reporting.scales import Scale, linear, scale_of
from petune.comparison.reporting.searched import Search, settings_key
from petune.comparison.reporting.svg import Drawing

_WIDTH, _HEIGHT = 300.0, 178.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, _WIDTH - 10, 12.0, _HEIGHT - 36
_RATE = "learning_rate"

Line = list[tuple[float, Trial]]


def search_curves(searches: Sequence[Search], name: str) -> Iterator[tuple[Contender, str]]:
    """Yield each contender whose search tried several numbers of one setting with its chart: a line for each round.

    Where several settings were searched, the lines of a round are those of the other settings. All charts have the same
    upward axis.

    Args:
        searches: those of one base.
        name: of the drawings, unique in the page.
    """
    drawn = [(search, axis) for search in searches if (axis := _axis(search.contender.search)) is not None]
    values = [trial.quality or 0.0 for search, axis in drawn for trial in _measured(search.contender.search, axis)]
    upwards = linear(values, _BOTTOM, _TOP)
    for search, axis in drawn:
        yield search.contender, _chart(search, axis, upwards, f"{name}-{search.contender.number}")


def _axis(trials: Sequence[Trial]) -> str | None:
    """Return the setting to draw the metric over: the learning rate, or another with several numbers that ended."""
    names = dict.fromkeys((_RATE, *(name for trial in trials for name in trial.settings)))
    for name in names:
        if len({trial.settings[name] for trial in _measured(trials, name)}) > 1:
            return name
    return None


def _measured(trials: Sequence[Trial], axis: str) -> list[Trial]:
    """Return the trials with a figure and a number of the setting."""
    return [
        t for t in trials if _is_number(t.settings.get(axis)) and t.quality is not None and math.isfinite(t.quality)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lines(trials: Sequence[Trial], axis: str) -> Iterator[tuple[int, Line]]:
    """Yield the round and the points of each line, by round; the points from left to right."""
    lines: dict[tuple[int, str], Line] = {}
    for trial in _measured(trials, axis):
        others = settings_key({key: value for key, value in trial.settings.items() if key != axis})
        lines.setdefault((trial.rung or 0, others), []).append((float(trial.settings[axis]), trial))
    for (rung, _), line in sorted(lines.items(), key=lambda item: item[0][0]):
        yield rung, sorted(line, key=lambda point: point[0])


def _chart(search: Search, axis: str, upwards: Scale, name: str) -> str:
    trials = search.contender.search
    lines = list(_lines(trials, axis))
    most = max(trial.budget.amount for _, line in lines for _, trial in line)
    words = {candidate.key: candidate.settings for candidate in search.candidates}
    across = scale_of([value for _, line in lines for value, _ in line], _LEFT + 8, _RIGHT - 8, margin=0.02)
    title = f"The search of {search.contender.label}: {search.metric} over {axis}"
    drawing = Drawing(name, _WIDTH, _HEIGHT, title, _in_words(lines))
    for value in upwards.ticks(4):
        drawing.line("grid", _LEFT, upwards.place(value), _RIGHT, upwards.place(value))
        drawing.text("tick", _LEFT - 6, upwards.place(value) + 4, tick(value), "end")
    drawing.line("zero", _LEFT, _BOTTOM, _RIGHT, _BOTTOM)
    for value in sorted({value for _, line in lines for value, _ in line}):
        drawing.line("zero", across.place(value), _BOTTOM, across.place(value), _BOTTOM + 4)
    for value in _ends(lines):
        drawing.text("tick", across.place(value), _BOTTOM + 17, value_text(value), "middle")
    drawing.text("axis-name", _RIGHT, _HEIGHT - 3, axis, "end")
    for _, line in lines:
        kind = "validation" if line[0][1].budget.amount == most else "training"
        points = [(across.place(value), upwards.place(trial.quality or 0.0)) for value, trial in line]
        drawing.path(f"curve {kind}", points)
        for (x, y), (_, trial) in zip(points, line, strict=True):
            key = settings_key(trial.settings)
            chosen = kind == "validation" and key in search.chosen
            hint = f"{words[key]}: {number(trial.quality or 0.0)} after {amount(trial.budget)}"
            drawing.circle("dot front" if chosen else f"dot {kind}", x, y, 5 if chosen else 3, hint)
    return drawing.markup()


def _ends(lines: Sequence[tuple[int, Line]]) -> tuple[float, float]:
    values = [value for _, line in lines for value, _ in line]
    return min(values), max(values)


def _in_words(lines: Sequence[tuple[int, Line]]) -> str:
    parts = []
    for rung, line in lines:
        points = ", ".join(f"{number(trial.quality or 0.0)} at {value:g}" for value, trial in line)
        parts.append(f"round {rung + 1}, after {amount(line[0][1].budget)}: {points}")
    return "; ".join(parts)
