"""What the figures say of training: who overfits, who was not done, whose settings were at the edge of the search."""

from collections.abc import Iterator
from typing import TypeGuard

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.quantities import number
from petune.comparison.reporting.sentences import Sentence, agreeing, labels, listed
from petune.comparison.reporting.standing import Standing
from petune.comparison.reporting.tables import last_step, step_range

OVERFITTING = 0.02
"""How far the validation loss must end above its least, as a share of it."""

FALLING = 0.01
"""How far it must have fallen since about three quarters of the steps, as a share of it."""

_SINCE, _NEAR = 0.75, 0.1
"""The share of the steps since which it must have fallen, and how near to that an evaluation must be."""


def training_sentences(standing: Standing) -> Iterator[Sentence]:
    """Yield what is to be said of training on one base."""
    for contender in standing.contenders:
        yield from _overfitting(contender)
    falling = tuple(c for c in standing.contenders if c.done and all(still_falling(trial) for trial in c.done))
    if falling:
        text = f"The validation loss of {labels(falling)} was still falling at the end: more training may help."
        yield Sentence(text, falling, "learning")
    yield from _edges(standing)


def overfits(trial: Trial) -> bool:
    """Say whether the validation loss ended clearly above its least, which came before the end."""
    if trial.eval_loss is None or trial.best_eval_loss is None or trial.best_step is None:
        return False
    last = last_step(trial)
    early = last is not None and trial.best_step < last
    return early and trial.eval_loss > (1 + OVERFITTING) * trial.best_eval_loss


def still_falling(trial: Trial) -> bool:
    """Say whether the validation loss was least at the end, and clearly less than at three quarters of the steps."""
    points = [(point.step, point.eval_loss) for point in trial.curve if point.eval_loss is not None]
    if not points:
        return False
    steps, last = points[-1]
    step, before = min(points, key=lambda point: abs(point[0] - _SINCE * steps))
    near = abs(step - _SINCE * steps) <= _NEAR * steps
    return near and last <= min(loss for _, loss in points) and before > (1 + FALLING) * last


def _overfitting(contender: Contender) -> Iterator[Sentence]:
    if not contender.done or not all(overfits(trial) for trial in contender.done):
        return
    steps = step_range([trial.best_step for trial in contender.done if trial.best_step is not None])
    least, end = contender.mean(lambda t: t.best_eval_loss), contender.mean(lambda t: t.eval_loss)
    trained = contender.mean(lambda t: t.train_loss)
    assert least is not None
    assert end is not None
    beside = "" if trained is None else f", with a training loss of {number(trained)}"
    course = f"its validation loss rises from {number(least)} to {number(end)}"
    total = step_range([step for trial in contender.done if (step := last_step(trial)) is not None])
    verb = agreeing([contender], "overfits", "overfit")
    text = f"{contender.label} {verb} after step {steps} of {total}: {course}{beside}."
    yield Sentence(text, (contender,), "learning")


def _edges(standing: Standing) -> Iterator[Sentence]:
    """Say which chosen numbers were the least or the largest of those that the search tried."""
    found = [(contender, edge) for contender in standing.contenders for edge in _edges_of(contender)]
    if found:
        places = listed(edge for _, edge in found)
        text = f"Chosen at the edge of what was tried: {places}. A wider search may find better."
        yield Sentence(text, tuple(dict.fromkeys(contender for contender, _ in found)), "search")


def _edges_of(contender: Contender) -> Iterator[str]:
    for key, chosen in contender.settings.items():
        tried: set[float] = {v for trial in contender.search if _is_number(v := trial.settings.get(key))}
        if _is_number(chosen) and len(tried) > 1 and chosen in (min(tried), max(tried)):
            yield f"the {'least' if chosen == min(tried) else 'largest'} {key} of {contender.label} ({chosen:g})"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
