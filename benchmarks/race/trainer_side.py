"""What all workers share that train with transformers' Trainer or one built on it, whatever its release."""

from typing import Any

from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback

from race.clock import StepClock
from race.settings import Settings
from race.task import Task
from race.validation import Validation
from race.work import Row


class Watch(TrainerCallback):
    """Follows the run: times, losses and norms where the Trainer logs them.

    Args:
        validation: measured as the run goes on, which ends once it is reached.
        device: where the run is.
    """

    def __init__(self, validation: Validation | None = None, device: str = "cpu") -> None:
        self.clock = StepClock(device)
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        self._validation = validation

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin the clock."""
        self.clock.begin()
        if self._validation is not None:
            self._validation.begin()

    def on_step_end(self, _args: Any, state: Any, control: Any, **others: Any) -> None:
        """Note a step."""
        self.clock.step()
        if self._validation is not None and self._validation.reached(others["model"], state.global_step):
            control.should_training_stop = True

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Note what is logged, the summary at the end apart."""
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.grad_norms.append(float(logs["grad_norm"]))


class CountingCollator(DataCollatorForSeq2Seq):
    """Pads as always, and notes the real tokens of each batch."""

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> Any:
        """Return the padded batch."""
        self.__dict__.setdefault("tokens", []).append(sum(len(row["input_ids"]) for row in features))
        return super().__call__(features, return_tensors)

    def counted(self, steps: int) -> list[int]:
        """Return the real tokens of each of the first ``steps`` batches."""
        return list(self.__dict__["tokens"][:steps])


def dataset(task: Task, *, planned: bool, steps: int) -> Dataset:
    """Return the rows in the order of the file, or as the plan has them."""
    rows = task.work.read_rows()
    if planned:
        rows = [rows[index] for step in task.work.read_plan()[:steps] for index in step]
    return Dataset.from_list([features(row) for row in rows])


def features(row: Row) -> dict[str, list[int]]:
    """Return what a tokenised data set holds."""
    return {
        "input_ids": row.input_ids,
        "attention_mask": [1] * len(row.input_ids),
        "labels": row.labels,
    }


def arguments_of(settings: Settings, steps: int, output: str) -> dict[str, Any]:
    """Return the training arguments that are the same on every side."""
    return {
        "output_dir": output,
        "use_cpu": settings.device == "cpu",
        "per_device_train_batch_size": settings.rows_per_step,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warm_up(steps),
        "max_grad_norm": settings.max_grad_norm,
        "seed": settings.seed,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def report_of(watch: Watch, collator: CountingCollator, steps: int) -> dict[str, Any]:
    """Return what a worker answers."""
    return {
        **watch.clock.report(),
        "losses": watch.losses,
        "grad_norms": watch.grad_norms,
        "tokens": collator.counted(steps),
    }


def in_order(trainer: type[Trainer]) -> type[Trainer]:
    """Return ``trainer`` taking rows in the order of its data set; releases differ in how to ask for it."""

    class InOrder(trainer):  # type: ignore[misc, valid-type]
        def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    return InOrder
