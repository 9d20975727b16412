"""Trains one contest with petune, as `petune.train` does it for anybody."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import petune
from petune.training.events import Plan, Step
from race.contests import CONTESTS
from race.resident import settle, with_loading
from race.task import Task
from race.validation import Validation
from race.workers.petune_side import Watch
from race.workers.prepare import reading

TRUNK_CACHE = "4GiB"


class Reached(Exception):  # noqa: N818 - no error: the run has come as far as it was to
    """The held-out loss is low enough."""


class ContestWatch(Watch):
    """A watch that tells the memory of loading from that of the steps, and ends a run that has come far enough.

    Args:
        base: what is trained on.
        validation: measured as the run goes on.
    """

    def __init__(self, base: petune.Base, validation: Validation | None) -> None:
        super().__init__(base.device.type)
        self._base = base
        self._validation = validation

    def started(self, plan: Plan) -> None:
        """Begin the clock on a model that is in memory as a whole."""
        self.peak_of_loading = settle(self._base.model, self._base.device.type)
        super().started(plan)
        if self._validation is not None:
            self._validation.begin()

    def stepped(self, step: Step) -> None:
        """Note a step."""
        super().stepped(step)
        if self._validation is not None and self._validation.reached(self._base.model, step.step):
            raise Reached


def main() -> None:
    """Train ``steps`` steps of ``contest``, the base in ``dtype``."""
    task = Task.from_command_line()
    device = task.work.settings.device
    base = petune.load_base(task.work.model, dtype=task.arguments["dtype"], device=device)
    validation = None
    if task.arguments.get("to_loss") is not None:
        rows, every = task.work.read_test_rows(), task.work.settings.measured_every
        validation = Validation(rows, task.arguments["to_loss"], every, base.tokenizer.pad_token_id)
    watch = ContestWatch(base, validation)
    with suppress(Reached):
        petune.train(recipe(task), base=base, listeners=[watch])
    task.answer(
        {
            **with_loading(watch.clock.report(), watch.peak_of_loading),
            "losses": [step.loss for step in watch.steps],
            "grad_norms": [step.grad_norm for step in watch.steps],
            "tokens": [step.tokens for step in watch.steps],
            "validation": None if validation is None else validation.report(),
        }
    )


def recipe(task: Task) -> dict[str, Any]:
    """Return the recipe; the adapter starts from ``work.start_tensors``, which the same seed makes."""
    contest, settings, steps = CONTESTS[task.arguments["contest"]], task.settings, int(task.arguments["steps"])
    return {
        **reading(settings),
        "data": str(task.work.train_text),
        "method": contest.method,
        **contest.options,
        "per_device_train_batch_size": settings.rows_per_step,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warm_up(steps),
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "output_dir": str(Path(task.arguments["output"])),
        **({"trunk_cache": TRUNK_CACHE} if contest.cached_from_epoch_two else {}),
        **({"torch_compile": True} if task.arguments["manner"] == "compiled" else {}),
    }


if __name__ == "__main__":
    main()
