"""One adapter in training: its rows, its optimiser, how far it has come, and what is due after a step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.data.batching import answer_starts
from petune.data.encoding import Encoded
from petune.errors import ConfigError, DataError, DivergedError, PetuneError
from petune.training import checkpoints
from petune.training.events import Evaluated, Listeners
from petune.training.grounds import Grounds
from petune.training.mixing import MixedSchedule
from petune.training.optimizer import (
    load_optimizer_tensors,
    make_optimizer,
    make_schedule,
    optimizer_tensors,
)
from petune.training.options import TrainingOptions
from petune.training.schedule import Schedule


@dataclass(slots=True)
class Progress:
    """How far a run has come; the JSON part of a checkpoint."""

    step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    evaluations_without_improvement: int = 0
    losses_since_log: list[float] = field(default_factory=list)
    losses_of_tasks: dict[str, list[float]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def _require_prompts(adapter: Adapter, rows: Sequence[Encoded]) -> None:
    # One token before the answer has to predict it: there must be another one to hide from.
    bare = [row.origin for row, start in zip(rows, answer_starts(rows), strict=True) if start < 2]
    if bare:
        raise DataError(
            f"with these settings {adapter.method.title} is hidden from what comes before the answer, and in"
            f" {len(bare):,} of {len(rows):,} rows nothing does, the first at {bare[0]}; give rows a prompt and a"
            " learned part, or change the settings"
        )


@final
class AdapterRun:
    """One adapter in training.

    Args:
        adapter: attached already.
        rows: its encoded training rows.
        options: how to train it.
        base: what it is attached to.
        output: folder of its checkpoints.
        weights: the share of each task, by name, where the rows are of several; see :class:`MixedSchedule`.
        judged_by: its encoded validation rows.

    Attributes:
        listeners: who follows.
        evaluate: measures the adapter; None where there are no validation rows.
        sample: measures it on a few of them, and how many times as long all of them take; None where that is not known.
        error: what has stopped it before its end.

    Raises:
        DataError: the adapter is hidden from what comes before the answer, and a row has nothing before it.
    """

    def __init__(
        self,
        adapter: Adapter,
        rows: list[Encoded],
        options: TrainingOptions,
        base: Base,
        output: Path,
        weights: Mapping[str, float] | None = None,
        judged_by: Sequence[Encoded] = (),
    ) -> None:
        if adapter.needs_answers:
            _require_prompts(adapter, rows)
        self.adapter = adapter
        self.trained_parameters = adapter.num_parameters()
        self.rows = rows
        self.options = options
        self.output = output
        self.listeners = Listeners()
        self.evaluate: Evaluate | None = None
        self.sample: tuple[Evaluate, float] | None = None
        self.error: PetuneError | None = None
        versions = 1 if adapter.placement is None else adapter.placement.versions
        lengths, tasks = [row.num_tokens for row in rows], [row.task for row in rows]
        self.schedule: Schedule | MixedSchedule
        if len(set(tasks)) == 1:
            self.schedule = Schedule(lengths, options, versions)
        else:
            self.schedule = MixedSchedule(lengths, tasks, weights or {}, options, versions)
        self.optimizer = make_optimizer(adapter, options)
        self.rate = make_schedule(self.optimizer, options, self.schedule.total_steps)
        # fp16 gradients underflow without a scale; bf16 and fp32 need none.
        self.scaler = torch.amp.GradScaler(base.device.type, enabled=base.dtype == torch.float16)
        self.progress = Progress()
        self._grounds = Grounds(base, rows, judged_by)
        self._parameters = list(adapter.parameters())

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.schedule.total_steps

    @property
    def shares(self) -> dict[str, float]:
        """The share of each task in the steps, by name; they add up to 1."""
        if isinstance(self.schedule, MixedSchedule):
            return self.schedule.shares
        return {self.rows[0].task: 1.0}

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.schedule.epoch_at(self.progress.step)

    @property
    def goes_on(self) -> bool:
        """Whether another step comes."""
        patience = self.options.early_stopping_patience
        waits = patience is None or self.progress.evaluations_without_improvement < patience
        return self.error is None and waits and self.progress.step < self.total_steps

    def clip(self) -> Tensor:
        """Clip the gradients; return their norm before [], unread, so that nobody waits for the device here."""
        parameters = [p for p in self._parameters if p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(parameters, self.options.max_grad_norm or math.inf)

    def update(self, rows: Sequence[Encoded], norm: float) -> float:
        """Step with the clipped gradients, and count the step; return the learning rate used.

        Args:
            rows: those of the step, to be named in an error.
            norm: that of the gradients before clipping.

        Raises:
            DivergedError: the norm is not finite; nothing was changed.
        """
        # An fp16 overflow only costs this step, as long as the scale can still be lowered.
        if not math.isfinite(norm) and self.scaler.get_scale() <= 1:
            raise self.diverged(f"the gradient's norm is {norm}", rows)
        rate = self.learning_rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.rate.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.adapter.refresh()
        self.progress.step += 1
        return rate

    @property
    def learning_rate(self) -> float:
        """The rate of this moment: of the parameters that have no rate of their own, where there are some."""
        usual = self.optimizer.defaults["lr"]
        rates = [(group["initial_lr"] != usual, group["lr"]) for group in self.optimizer.param_groups]
        return float(min(rates, key=lambda rate: rate[0])[1])

    def diverged(self, what: str, rows: Sequence[Encoded]) -> DivergedError:
        """Return the error that says ``what`` is not finite, in which rows, and what is left."""
        names = ", ".join(row.origin for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        steps = checkpoints.steps_in(self.output)
        last = f"the last checkpoint is {self.output / f'checkpoint-{steps[-1]}'}" if steps else "no checkpoint yet"
        return DivergedError(
            f"{what} at step {self.progress.step + 1}, in rows {names}; learning rate {self.learning_rate:.3g};"
            f" the step was not taken, {last}. Lower --learning-rate, look at these rows, or try --dtype float32"
        )

    def follow_up(self) -> None:
        """Do what is due after a step: evaluate, write a checkpoint."""
        if self.evaluate is not None and self.due(self.options.eval_steps, self.progress.step):
            self._judge(self.evaluate(self))
            self.save()
        elif self.due(self.options.save_steps, self.progress.step):
            self.save()

    def due(self, every: int | None, done: int) -> bool:
        """Say whether what happens ``every`` so many steps (None: each epoch) does after ``done`` steps."""
        if every is None:
            return self.schedule.ends_epoch(done)
        return done % every == 0 or done == self.total_steps

    def _judge(self, metrics: dict[str, float]) -> None:
        """Note an evaluation, and whether it is the best so far."""
        progress, key = self.progress, self.options.best_metric
        if key not in metrics:
            raise ConfigError(
                f"metric_for_best_model is '{key}', which is not measured; measured are {', '.join(metrics)}"
            )
        value = metrics[key] if self.options.more_is_better else -metrics[key]
        better = math.isfinite(value) and (progress.best_value is None or value > progress.best_value)
        if better:
            progress.best_value, progress.best_step = value, progress.step
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1
        self.listeners.evaluated(Evaluated(progress.step, self.epoch, metrics, better))

    def save(self) -> Path:
        """Write a checkpoint, remove those that are too many, and return its folder."""
        folder = checkpoints.save(self.output, self.progress.step, self.checkpoint())
        self.listeners.saved(folder, self.progress.step)
        checkpoints.rotate(self.output, self.options.save_total_limit, self.progress.best_step)
        return folder

    def saved(self) -> Path:
        """Return the folder of the last step's checkpoint, written now where it is missing."""
        # What was saved right after the step is not written again over itself: a second signal could hit then.
        newest = checkpoints.steps_in(self.output)[-1:]
        return self.output / f"checkpoint-{newest[0]}" if newest == [self.progress.step] else self.save()

    def take_best(self) -> None:
        """Go back to the tensors of the best evaluation, where that is wanted."""
        best = self.progress.best_step
        if self.options.load_best_model_at_end and best is not None and best != self.progress.step:
            self.adapter.load_tensors(checkpoints.load(self.output / f"checkpoint-{best}").masters)

    @property
    def kept_step(self) -> int:
        """The step whose tensors are kept: that of the best evaluation, or the last."""
        best = self.progress.best_step if self.options.load_best_model_at_end else None
        return self.progress.step if best is None else best

    def checkpoint(self) -> checkpoints.Checkpoint:
        """Return the state to save."""
        progress = {name: getattr(self.progress, name) for name in Progress.__dataclass_fields__}
        return checkpoints.Checkpoint(
            masters=self.adapter.tensors(),
            optimizer=optimizer_tensors(self.optimizer),
            random=checkpoints.random_state(),
            state={
                "progress": progress,
                "rate": self.rate.state_dict(),
                "scaler": self.scaler.state_dict(),
                **self._grounds.state(),
            },
        )

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go back to a saved state; the random generators, which are everybody's, stay as they are.

        Raises:
            CheckpointError: it was made with other rows, or on another base.
            AdapterFormatError: the tensors are not of this adapter.
        """
        self._grounds.require_same(checkpoint.state, checkpoint.state["progress"]["step"])
        self.adapter.load_tensors(checkpoint.masters)
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        self.rate.load_state_dict(checkpoint.state["rate"])
        for group, rate in zip(self.optimizer.param_groups, self.rate.get_last_lr(), strict=True):
            group["lr"] = rate
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.progress = Progress(**checkpoint.state["progress"])


Evaluate = Callable[[AdapterRun], dict[str, float]]
"""Measures an adapter on its validation rows: metric name to value, ``loss`` among them."""
