"""One adapter in training: its rows, its optimiser, and how far it has come."""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.data.batching import answer_starts
from petune.data.encoding import Encoded
from petune.errors import CheckpointError, DataError
from petune.training import checkpoints
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


def rows_digest(rows: Sequence[Encoded]) -> str:
    """Return the SHA-256 over the tokens and labels of ``rows``, in order."""
    total = hashlib.sha256()
    for row in rows:
        total.update(array("q", (len(row.input_ids), *row.input_ids, *row.labels)).tobytes())
    return total.hexdigest()


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
        weights: the share of each task, by name, where the rows are of several; see :class:`MixedSchedule`.

    Raises:
        DataError: the adapter is hidden from what comes before the answer, and a row has nothing before it.
    """

    def __init__(
        self,
        adapter: Adapter,
        rows: list[Encoded],
        options: TrainingOptions,
        base: Base,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if adapter.needs_answers:
            _require_prompts(adapter, rows)
        self.adapter = adapter
        self.trained_parameters = adapter.num_parameters()
        self.rows = rows
        self.options = options
        versions = 1 if adapter.placement is None else adapter.placement.versions
        lengths, tasks = [len(row.input_ids) for row in rows], [row.task for row in rows]
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
        self._rows_digest = rows_digest(rows)

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
                "rows": self._rows_digest,
            },
        )

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Go back to a saved state.

        Raises:
            CheckpointError: it was made with other training rows.
            AdapterFormatError: the tensors are not of this adapter.
        """
        if checkpoint.state["rows"] != self._rows_digest:
            raise CheckpointError(
                f"the checkpoint of step {checkpoint.state['progress']['step']} was made with other rows than those"
                f" that {self.rows[0].origin.rpartition(':')[0]} holds now; bring the former rows back, or start anew"
                " with --overwrite"
            )
        self.adapter.load_tensors(checkpoint.masters)
        load_optimizer_tensors(self.optimizer, checkpoint.optimizer)
        self.rate.load_state_dict(checkpoint.state["rate"])
        for group, rate in zip(self.optimizer.param_groups, self.rate.get_last_lr(), strict=True):
            group["lr"] = rate
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.progress = Progress(**checkpoint.state["progress"])
        checkpoints.set_random_state(checkpoint.random)
