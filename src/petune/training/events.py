"""What happens during a training run, and who wants to know."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from petune.training.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to run."""

    total_steps: int
    first_step: int
    """Steps done already, of a resumed run."""
    parameters: str
    """The line of trainable and all parameters."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimiser step."""

    step: int
    epoch: float
    loss: float
    """Mean negative log-likelihood per label token, in nats."""
    learning_rate: float
    grad_norm: float
    """Norm before clipping."""
    tokens: int
    """Tokens of the step, padding not counted."""
    tokens_per_second: float
    seconds: float
    """Time of the step: of one that several adapters did together, this one's part by tokens."""
    memory: int
    """Peak memory since the training began: of the device on CUDA, of the process on CPU; bytes."""
    task: str = ""
    """Name of the task that the step's rows are of, in a run for several."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation on the validation rows."""

    step: int
    epoch: float
    metrics: dict[str, float]
    best: bool


class Listener(Protocol):
    """Somebody who follows a run. Listeners see; they change nothing."""

    def estimated(self, estimate: Estimate) -> None:
        """The memory and time of the run were estimated; told before it starts, where that was asked for."""

    def started(self, plan: Plan) -> None:
        """The first step comes next."""

    def stepped(self, step: Step) -> None:
        """An optimiser step is done."""

    def evaluated(self, evaluation: Evaluated) -> None:
        """An evaluation is done."""

    def saved(self, folder: Path, step: int) -> None:
        """A checkpoint is complete."""

    def ended(self) -> None:
        """No more steps come; also called when the run fails."""


class Silent:
    """A listener that ignores everything; others override what they care for."""

    def estimated(self, estimate: Estimate) -> None:
        """Ignore it."""

    def started(self, plan: Plan) -> None:
        """Ignore it."""

    def stepped(self, step: Step) -> None:
        """Ignore it."""

    def evaluated(self, evaluation: Evaluated) -> None:
        """Ignore it."""

    def saved(self, folder: Path, step: int) -> None:
        """Ignore it."""

    def ended(self) -> None:
        """Ignore it."""


class Listeners:
    """Several listeners as one."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._all = list(listeners)

    def add(self, *listeners: Listener) -> None:
        """Tell these as well from now on."""
        self._all += listeners

    def estimated(self, estimate: Estimate) -> None:
        """Tell everyone."""
        for listener in self._all:
            listener.estimated(estimate)

    def started(self, plan: Plan) -> None:
        """Tell everyone."""
        for listener in self._all:
            listener.started(plan)

    def stepped(self, step: Step) -> None:
        """Tell everyone."""
        for listener in self._all:
            listener.stepped(step)

    def evaluated(self, evaluation: Evaluated) -> None:
        """Tell everyone."""
        for listener in self._all:
            listener.evaluated(evaluation)

    def saved(self, folder: Path, step: int) -> None:
        """Tell everyone."""
        for listener in self._all:
            listener.saved(folder, step)

    def ended(self) -> None:
        """Tell everyone."""
        for listener in self._all:
            listener.ended()
