"""The course of one training: losses over steps, tokens and seconds."""

import json
import math
from pathlib import Path
from typing import final

from pydantic import BaseModel, ConfigDict

from petune.checkpoint.durable import write_text
from petune.comparison.record import CurvePoint
from petune.training.events import Evaluated, Plan, Silent, Step

FILE_NAME = "curve.json"
_LAST = 10
"""The training loss at the end is the mean over the last step in so many."""


class _State(BaseModel):
    """What is kept beside a checkpoint, so that a resumed run goes on with its curve."""

    model_config = ConfigDict(extra="forbid")

    points: list[CurvePoint] = []
    losses: list[float] = []
    noted: int = 0
    """Steps whose loss is in a point already."""
    tokens: int = 0
    seconds: float = 0.0


@final
class Curve(Silent):
    """Follows a training and keeps its course.

    Args:
        every: steps between two points; each evaluation is a point besides.
        folder: of the run; the state is kept there with each checkpoint.
    """

    def __init__(self, every: int, folder: Path) -> None:
        self._every = every
        self._path = folder / FILE_NAME
        self._state = _State()

    def started(self, plan: Plan) -> None:
        """Go on where a resumed run was stopped."""
        if plan.first_step and self._path.is_file():
            state = _State.model_validate(json.loads(self._path.read_text(encoding="utf-8")))
            if len(state.losses) == plan.first_step:
                self._state = state

    def stepped(self, step: Step) -> None:
        """Take the step in."""
        self._state.losses.append(step.loss)
        self._state.tokens += step.tokens
        self._state.seconds += step.seconds
        if step.step % self._every == 0:
            self._add(step.step, None)

    def evaluated(self, evaluation: Evaluated) -> None:
        """Take the validation loss in."""
        self._add(evaluation.step, evaluation.metrics.get("loss"))

    def saved(self, folder: Path, step: int) -> None:
        """Keep the state, for the run may be stopped and go on from here."""
        write_text(self._path, self._state.model_dump_json())

    def ended(self) -> None:
        """Make a point of the last step."""
        if self._state.noted < len(self._state.losses):
            self._add(len(self._state.losses), None)

    def _add(self, step: int, eval_loss: float | None) -> None:
        state = self._state
        new = state.losses[state.noted :]
        if new:
            mean = sum(new) / len(new)
            state.points.append(
                CurvePoint(step=step, tokens=state.tokens, seconds=state.seconds, train_loss=mean, eval_loss=eval_loss)
            )
        elif eval_loss is not None and state.points:
            state.points[-1] = state.points[-1].model_copy(update={"eval_loss": eval_loss})
        state.noted = len(state.losses)

    @property
    def points(self) -> list[CurvePoint]:
        """The course so far."""
        return list(self._state.points)

    @property
    def tokens(self) -> int:
        """Tokens trained on, padding left out."""
        return self._state.tokens

    @property
    def seconds(self) -> float:
        """Time of the steps, evaluations left out."""
        return self._state.seconds

    @property
    def train_loss(self) -> float | None:
        """Mean loss of the last steps; None before the first."""
        losses = self._state.losses
        last = losses[-max(1, len(losses) // _LAST) :]
        return sum(last) / len(last) if last else None

    @property
    def best(self) -> CurvePoint | None:
        """The point of the least validation loss, the first of equal ones; None where no finite one was measured."""
        measured = [(point.eval_loss, point) for point in self._state.points if point.eval_loss is not None]
        finite = [(loss, point) for loss, point in measured if math.isfinite(loss)]  # NaN is not less than anything
        return min(finite, key=lambda pair: pair[0])[1] if finite else None

    @property
    def last_eval_loss(self) -> float | None:
        """The validation loss measured last."""
        measured = [point.eval_loss for point in self._state.points if point.eval_loss is not None]
        return measured[-1] if measured else None
