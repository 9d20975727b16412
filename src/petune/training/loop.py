"""The training loop: one for every method, over a list of adapters on one base."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.data.batching import answer_starts, collate
from petune.data.encoding import Encoded
from petune.errors import Interrupted, PetuneError, TargetError
from petune.kernels.upload import uploaded
from petune.kernels.varlen_attention import has_kernel
from petune.sites.head import LabelLoss
from petune.tasks.task import Objective, Task
from petune.training.adapter_run import AdapterRun
from petune.training.byte_sizes import read_bytes
from petune.training.compiled_blocks import compiled_blocks
from petune.training.estimate import Estimate
from petune.training.events import Plan, Step
from petune.training.foresight import cost, estimated
from petune.training.learned_memory import VALUE
from petune.training.memory import freed_memory_kept, large_tensors_given_back, peak_memory, restart_peak
from petune.training.memory_budget import way_within
from petune.training.memory_needs import MemoryNeeds, Way
from petune.training.packing import NextStep, Place, end_to_end, of_like_lengths, pack
from petune.training.readings import clipped_and_read
from petune.training.recomputation import gradient_checkpointing, recomputed
from petune.training.rehearsal import Rehearsal
from petune.training.shared_prefix import SharedPrefix
from petune.training.signals import StopSignals
from petune.training.trunk_cache import Around, no_trunk_cache, trunk_cache
from petune.training.unpadded import Unpadded

_LARGE_GRADIENTS = 2**25
"""Bytes of gradients from which on the C library would give them back to the system after each step."""


@final
@dataclass(frozen=True, slots=True)
class LoopTask:
    """What a batch is trained for."""

    task: Task
    headed: PreTrainedModel | None = None
    """The body of the base with a head of the task's own; None for the head that the base was loaded with."""


@final
class Loop:
    """Steps, evaluations and checkpoints of the adapters in ``runs``: one step of each, then the next.

    What goes wrong with one adapter alone (a loss that is not finite, a full disk) is noted in its ``error``, and the
    others go on.

    Attributes:
        estimate: time and memory, as estimated before the first step.
        rehearsed: seconds that this took.

    Args:
        model: the base with the adapters attached.
        runs: the adapters to train.
        tasks: what the base is trained for, by the name of the task that rows are of; a step's rows are of one.
        finish: called with each run as soon as no more steps of it come.
        how_to_go_on: what to do after a signal has stopped the loop.
    """

    def __init__(
        self,
        model: AdaptedModel,
        runs: Sequence[AdapterRun],
        tasks: Mapping[str, LoopTask],
        finish: Callable[[AdapterRun], None],
        how_to_go_on: str,
    ) -> None:
        self._model = model
        self._runs = runs
        self._finish = finish
        self._how_to_go_on = how_to_go_on
        self._tasks = tasks
        self._objectives: dict[str, Objective] = {
            name: task.task.objective(task.headed or model.model, model.plugged_into) for name, task in tasks.items()
        }
        self._options = runs[0].options  # what concerns the whole pass is the same for all of them
        self._around: Around = no_trunk_cache
        self._most_tokens: int | None = None
        self.estimate: Estimate | None = None
        self.rehearsed = 0.0
        shares = self._options.share_prefix and not self._options.torch_compile  # a cache makes each block a graph
        self._prefixes = {
            name: SharedPrefix(model, self._objectives[name])
            for name, task in tasks.items()
            if shares and task.task.shares_prefix and task.headed is None
        }
        self._pads_nothing = has_kernel(model.device, model.model.dtype)
        may_lie_end_to_end = self._pads_nothing or model.device.type == "cpu"
        self._unpadded = {
            name: Unpadded(model, objective, shares_tokens=shares)
            for name, objective in self._objectives.items()
            if may_lie_end_to_end and isinstance(objective, LabelLoss)
        }

    def run(self, *, estimate: bool | float = False) -> None:
        """Train every adapter to its end.

        Args:
            estimate: tell the listeners first what time and memory it will take; a number is the largest share of that
                time that finding it out may take, else nothing is told.

        Raises:
            Interrupted: a signal asked to stop; checkpoints were written first.
            ConfigError: there is a memory budget, and it cannot be met.
        """
        recomputes, compiles = self._options.gradient_checkpointing, self._options.torch_compile
        for run in self._runs:
            parameters = self._model.parameter_summary(run.adapter.name)
            run.listeners.started(Plan(run.total_steps, run.progress.step, parameters))
        waiting = list(self._runs)
        restart_peak(self._model.device)  # what loading the base took for a moment is no memory of the training
        self._model.train()
        try:
            with (
                StopSignals() as signals,
                gradient_checkpointing(self._model.model) if recomputes else nullcontext(),
                self._model.fast_training(compiled=compiles),
                compiled_blocks(self._model.model, self._model.base.structure) if compiles else nullcontext(),
                trunk_cache(self._model, self._runs, self._options) as self._around,
                self._allocation(),
                ExitStack() as recomputing,
            ):
                if (estimate or self._options.memory_budget) and any(run.goes_on for run in waiting):
                    self._foresee(recomputing, estimate)
                while waiting:
                    for run in [run for run in waiting if not run.goes_on]:
                        waiting.remove(run)
                        self._end(run)
                    if waiting and signals.received is not None:
                        self._stop(waiting, signals.received)
                    if waiting:
                        self._round(waiting)
        finally:
            for run in waiting:
                run.listeners.ended()

    def _allocation(self) -> AbstractContextManager[None]:
        """Return how memory is to be taken and given back meanwhile."""
        if self._options.memory_budget is not None:
            return large_tensors_given_back(self._model.device)
        gradients = sum(run.trained_parameters for run in self._runs) * VALUE
        return freed_memory_kept(self._model.device) if gradients >= _LARGE_GRADIENTS else nullcontext()

    def _foresee(self, recomputing: ExitStack, most: bool | float) -> None:
        """Estimate time and memory, settle how to keep within the memory budget, and tell."""
        began = time.perf_counter()
        runs = [run for run in self._runs if run.goes_on]
        rehearsal = Rehearsal(self._model, runs, self._step_at, self._batches, self._accumulate)
        budget, grows_faster = self._options.memory_budget, self._around is not no_trunk_cache
        if budget is None and most is not True and cost(rehearsal, grows_faster=grows_faster) > most:
            self.rehearsed = time.perf_counter() - began
            return
        needs = MemoryNeeds(rehearsal)
        way = Way() if budget is None else way_within(read_bytes(budget), needs, rehearsal)
        recomputing.enter_context(recomputed(self._model.model, way.parts))
        self._most_tokens = way.most_tokens
        self.estimate = estimated(rehearsal, needs, way, grows_faster=grows_faster)
        self.rehearsed = time.perf_counter() - began
        for run in self._runs:
            run.listeners.estimated(self.estimate)

    def _end(self, run: AdapterRun) -> None:
        try:
            run.listeners.ended()  # also of a run that has failed
        except PetuneError as error:
            run.error = run.error or error
        _attempt(run, run.take_best)
        self._finish(run)

    def _round(self, runs: Sequence[AdapterRun]) -> None:
        """Do one step of each of ``runs``, with what is due after it."""
        began = time.perf_counter()
        steps = [self._step_at(run, run.progress.step) for run in runs]
        batches = self._batches(steps, self._most_tokens)
        losses = [self._accumulate(batch) for batch in batches]
        norms = clipped_and_read(steps, batches, losses)
        tokens = sum(sum(step.lengths) for step in steps)
        for step, norm in zip(steps, norms, strict=True):
            _attempt(step.run, partial(self._take, step, norm, began, tokens))
        for run in runs:
            _attempt(run, run.follow_up)

    def _step_at(self, run: AdapterRun, number: int) -> NextStep:
        """Return step ``number`` of ``run``, counted from 0."""
        _, indices = run.schedule.rows(number)
        rows = [run.rows[i] for i in indices]
        task = self._tasks[rows[0].task].task
        return NextStep(run, rows, sum(task.num_labels(row) for row in rows))

    def _batches(self, steps: Sequence[NextStep], most_tokens: int | None) -> list[list[Place]]:
        """Return the rows of ``steps`` as batches, of at most ``most_tokens`` where that is given."""
        if len(steps) > 1 and self._fit_end_to_end([(step, row) for step in steps for row in step.rows]):
            batches = end_to_end(steps, self._model.device, most_tokens)
            return [
                part
                for batch in batches
                for part in ([batch] if self._fit_end_to_end(batch) else of_like_lengths(batch, most_tokens))
            ]
        return pack(steps, self._model.device, most_tokens)

    def _fit_end_to_end(self, places: Sequence[Place]) -> bool:
        """Say whether rows, those of one adapter side by side, may lie end to end and gain by it."""
        names, rows = [step.run.adapter.name for step, _ in places], [row for _, row in places]
        task = rows[0].task
        fits = task in self._unpadded and self._around is no_trunk_cache and self._tasks[task].headed is None
        if not fits or any(row.task != task for row in rows):
            return False
        way = self._unpadded[task]
        # Without a kernel for them, the rows of one adapter are as fast in batches of like lengths.
        gains = len(set(names)) > 1 or (self._pads_nothing and len({len(row.input_ids) for row in rows}) > 1)
        if not gains and not way.saves(names, rows):
            return False
        if self._pads_nothing and task in self._prefixes and self._prefixes[task].pays(names, rows):
            return False
        return way.suits(list(zip(names, rows, strict=True)))

    def _accumulate(self, batch: Sequence[Place], goes_back: Callable[[], bool] = lambda: True) -> Tensor:
        """Add the gradients of each row's share of its step's mean loss; return the losses [B], unread.

        Args:
            batch: the rows.
            goes_back: asked after the forward pass whether gradients are wanted.

        Raises:
            TargetError: nothing that is learned has a part in the pass.
        """
        steps, rows = [step for step, _ in batch], [row for _, row in batch]
        names = [step.run.adapter.name for step in steps]
        fits = self._fit_end_to_end(batch)
        losses_of = partial(self._unpadded[rows[0].task].losses, forward=self._model) if fits else self._losses
        with losses_of(names, rows) as losses:
            if goes_back():
                if not losses.requires_grad:
                    raise TargetError(
                        f"nothing that adapter {' and '.join(dict.fromkeys(names))} learns has a part in what the base"
                        " computes: it reads the parameters of the chosen modules without calling them; choose others,"
                        " or another method"
                    )
                # Rows meet nowhere in the base, so a loss that is not finite spoils its own adapter's gradients alone.
                shares = uploaded(torch.tensor([1 / step.labels for step in steps]), losses.device)
                weights = [step.run.scaler.scale(share) for step, share in zip(steps, shares.unbind(), strict=True)]
                torch.autograd.backward(losses @ torch.stack(weights).to(losses))
            return losses.detach()

    @contextmanager
    def _losses(self, names: Sequence[str], rows: Sequence[Encoded]) -> Iterator[Tensor]:
        """Yield the loss of each row; a backward pass belongs inside as well."""
        task, pad = rows[0].task, self._model.tokenizer.pad_token_id
        assert isinstance(pad, int)
        collated = collate(rows, pad_token_id=pad)
        targets = collated.pop("labels")
        inputs: Mapping[str, Any] = {name: uploaded(tensor, self._model.device) for name, tensor in collated.items()}
        with self._model.route(names), self._model.answers_from(answer_starts(rows)), self._around(rows):
            if task in self._prefixes and self._around is no_trunk_cache:
                inputs, targets = self._prefixes[task].cut(names, rows, inputs, targets)
            forward = self._model if self._tasks[task].headed is None else None
            yield self._objectives[task](inputs, targets, forward)

    def _take(self, step: NextStep, norm: float, began: float, tokens_of_all: int) -> None:
        """Update the adapter, and tell."""
        rate = step.run.update(step.rows, norm)
        tokens, seconds = sum(step.lengths), time.perf_counter() - began
        told = Step(
            step=step.run.progress.step,
            epoch=step.run.epoch,
            loss=step.loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=tokens,
            tokens_per_second=tokens / seconds,
            seconds=seconds * tokens / tokens_of_all,
            memory=peak_memory(self._model.device),
            task=step.task,
        )
        step.run.listeners.stepped(told)

    def _stop(self, runs: Sequence[AdapterRun], signal_number: int) -> None:
        for run in runs:
            _attempt(run, run.saved)
        failed = [run.error for run in runs if run.error is not None]
        if failed:
            raise failed[0]
        where = ", ".join(f"at step {run.progress.step} of {run.total_steps}; saved {run.saved()}" for run in runs)
        raise Interrupted(f"stopped by a signal {where}. {self._how_to_go_on}", signal_number)


def _attempt(run: AdapterRun, action: Callable[[], object]) -> None:
    """Do ``action`` for ``run``, unless that has failed; an error stops ``run`` alone."""
    if run.error is None:
        try:
            action()
        except PetuneError as error:
            run.error = error
