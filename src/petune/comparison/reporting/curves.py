"""Learning curves: a small chart for each method, all with the same axes."""

import math
from collections.abc import Iterator, Sequence

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.quantities import number, tick
from petune.comparison.reporting.scales import Scale, linear
from petune.comparison.reporting.standing import Standing
from petune.comparison.reporting.svg import Drawing

_WIDTH, _HEIGHT = 300.0, 178.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 38.0, _WIDTH - 8, 8.0, _HEIGHT - 36

Points = list[tuple[int, float]]


def learning_curves(standing: Standing, name: str) -> Iterator[tuple[Contender, str]]:
    """Yield each contender that was trained with its chart: losses over the steps, one line a seed.

    Args:
        standing: the contenders of one base.
        name: of the drawings, unique in the page.
    """
    trained = [c for c in standing.contenders if any(_validation(trial) or _training(trial) for trial in c.done)]
    if not trained:
        return
    trials = [trial for contender in trained for trial in contender.done]
    across = Scale(0, max([1, *(point.step for trial in trials for point in trial.curve)]), _LEFT, _RIGHT)
    upwards = _loss_axis(trials)
    for contender in trained:
        others = [c.done[0] for c in trained if c != contender]
        yield contender, _chart(contender, others, across, upwards, f"{name}-{contender.number}")


def _validation(trial: Trial) -> Points:
    return [(p.step, p.eval_loss) for p in trial.curve if p.eval_loss is not None and math.isfinite(p.eval_loss)]


def _training(trial: Trial) -> Points:
    return [(p.step, p.train_loss) for p in trial.curve if p.train_loss is not None and math.isfinite(p.train_loss)]


def _loss_axis(trials: Sequence[Trial]) -> Scale:
    """Return an axis for the losses; the first steps may lie above it, or the rest of the curves would be flat."""
    shown: list[float] = []
    for trial in trials:
        last = trial.curve[-1].step if trial.curve else 0
        shown += [loss for step, loss in (*_validation(trial), *_training(trial)) if step >= last / 20]
    return linear(shown, _BOTTOM, _TOP, margin=0.05)


def _chart(contender: Contender, others: Sequence[Trial], across: Scale, upwards: Scale, name: str) -> str:
    drawing = Drawing(name, _WIDTH, _HEIGHT, f"Learning curves of {contender.label}", _in_words(contender))
    for value in upwards.ticks(4):
        drawing.line("grid", _LEFT, upwards.place(value), _RIGHT, upwards.place(value))
        drawing.text("tick", _LEFT - 6, upwards.place(value) + 4, tick(value), "end")
    drawing.line("zero", _LEFT, _BOTTOM, _RIGHT, _BOTTOM)
    for value in across.ticks(4):
        x = across.place(value)
        drawing.text("tick", x, _BOTTOM + 16, f"{value:,.0f}", "end" if x > _RIGHT - 12 else "middle")
    drawing.text("axis-name", _RIGHT, _HEIGHT - 3, "optimiser step", "end")

    def course(points: Points) -> list[tuple[float, float]]:
        return [(across.place(step), upwards.place(loss)) for step, loss in points]

    for trial in others:
        drawing.path("curve other", course(_validation(trial)))
    for trial in contender.done:
        drawing.path("curve training", course(_training(trial)))
    for trial in contender.done:
        points = _validation(trial)
        drawing.path("curve validation", course(points))
        least = [point for point in points if point[0] == trial.best_step]
        for (x, y), (step, loss) in zip(course(least), least, strict=True):
            drawing.circle(
                "least", x, y, 4, f"least validation loss with seed {trial.seed}: {number(loss)} at step {step:,}"
            )
    return drawing.markup()


def _in_words(contender: Contender) -> str:
    parts = []
    for trial in contender.done:
        words = [f"{kind} loss {number(points[0][1])} to {number(points[-1][1])}" for kind, points in _kinds(trial)]
        if trial.best_step is not None:
            words.append(f"least validation loss at step {trial.best_step:,}")
        parts.append(f"seed {trial.seed}: {', '.join(words)}")
    return "; ".join(parts)


def _kinds(trial: Trial) -> list[tuple[str, Points]]:
    return [
        (kind, points)
        for kind, points in (("training", _training(trial)), ("validation", _validation(trial)))
        if points
    ]
