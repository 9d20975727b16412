"""The training loop: one for every method, over a list of adapters on one base."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.data.batching import answer_starts, collate, split_step
from petune.data.encoding import Encoded
from petune.errors import ConfigError, DivergedError, Interrupted
from petune.evaluation.metrics import HIGHER_IS_WORSE
from petune.tasks.task import Objective, Task
from petune.training import checkpoints
from petune.training.adapter_run import AdapterRun
from petune.training.events import Evaluated, Listeners, Plan, Step
from petune.training.memory import peak_memory
from petune.training.options import TrainingOptions
from petune.training.shared_prefix import SharedPrefix
from petune.training.signals import StopSignals
from petune.training.trunk_cache import Around, no_trunk_cache, trunk_cache

Evaluate = Callable[[AdapterRun], dict[str, float]]
"""Measures an adapter on its validation rows: metric name to value, ``loss`` among them."""


@final
@dataclass(frozen=True, slots=True)
class LoopTask:
    """What a batch is trained for."""

    task: Task
    headed: PreTrainedModel | None = None
    """The body of the base with a head of the task's own; None for the head that the base was loaded with."""


@final
class Loop:
    """Steps, evaluations and checkpoints of the adapters in ``runs``.

    Args:
        model: the base with the adapters attached.
        runs: the adapters to train.
        options: the options of the whole loop.
        accelerator: devices and trackers.
        output: folder of the checkpoints.
        listeners: who follows.
        evaluate: how to measure; None where there are no validation rows.
        tasks: what the base is trained for, by the name of the task that rows are of; a step's rows are of one.
    """

    def __init__(
        self,
        model: AdaptedModel,
        runs: Sequence[AdapterRun],
        options: TrainingOptions,
        accelerator: Accelerator,
        output: Path,
        listeners: Listeners,
        evaluate: Evaluate | None,
        tasks: Mapping[str, LoopTask],
    ) -> None:
        self._model = model
        self._runs = runs
        self._options = options
        self._accelerator = accelerator
        self._output = output
        self._listeners = listeners
        self._evaluate = evaluate
        self._forward = accelerator.prepare_model(model)
        self._tasks = tasks
        self._objectives: dict[str, Objective] = {
            name: task.task.objective(task.headed or model.model, model.plugged_into) for name, task in tasks.items()
        }
        self._around: Around = no_trunk_cache
        self._prefixes = {
            name: SharedPrefix(model, self._objectives[name])
            for name, task in tasks.items()
            if options.share_prefix and task.task.shares_prefix and task.headed is None
        }

    def run(self) -> None:
        """Train every adapter to its end.

        Raises:
            DivergedError: a loss or gradient is not finite; nothing was updated with it.
            Interrupted: a signal asked to stop; a checkpoint was written first.
        """
        self._listeners.started(
            Plan(
                max(run.total_steps for run in self._runs),
                max(run.progress.step for run in self._runs),
                self._model.parameter_summary(),
            )
        )
        try:
            with (
                StopSignals() as signals,
                self._model.fast_training(),
                trunk_cache(self._model, self._runs, self._options) as self._around,
            ):
                unfinished = [run for run in self._runs if self._goes_on(run)]
                while unfinished:
                    unfinished = [run for run in unfinished if self._advance(run)]
                    if signals.received is not None and unfinished:
                        self._stop(signals.received)
        finally:
            self._listeners.ended()
        if self._options.load_best_model_at_end:
            for run in self._runs:
                self._take_best(run)

    def _advance(self, run: AdapterRun) -> bool:
        """Do one step of ``run`` with what is due after it; say whether more steps come."""
        self._listeners.stepped(self._step(run))
        if self._evaluate is not None and self._due(run, self._options.eval_steps):
            self._judge(run, self._evaluate(run))
            self._save(run)
        elif self._due(run, self._options.save_steps):
            self._save(run)
        return self._goes_on(run)

    def _goes_on(self, run: AdapterRun) -> bool:
        patience = self._options.early_stopping_patience
        waits = patience is None or run.progress.evaluations_without_improvement < patience
        return waits and run.progress.step < run.total_steps

    def _due(self, run: AdapterRun, every: int | None) -> bool:
        done = run.progress.step
        if every is None:
            return run.schedule.ends_epoch(done)
        return done % every == 0 or done == run.total_steps

    def _step(self, run: AdapterRun) -> Step:
        began = time.perf_counter()
        _, indices = run.schedule.rows(run.progress.step)
        rows = [run.rows[i] for i in indices]
        task = self._tasks[rows[0].task].task
        labels = sum(task.num_labels(row) for row in rows)
        batches = split_step(
            indices,
            run.schedule.lengths,
            max_rows=self._options.per_device_train_batch_size if self._options.tokens_per_step is None else None,
            max_tokens=self._options.max_tokens_per_batch,
        )
        self._model.train()
        loss = 0.0
        for batch in batches:
            loss += self._accumulate(run, [run.rows[i] for i in batch], labels)
        norm = self._update(run, rows)
        run.progress.step += 1
        seconds = time.perf_counter() - began
        tokens = sum(len(row.input_ids) for row in rows)
        return Step(
            step=run.progress.step,
            epoch=run.epoch,
            loss=loss,
            learning_rate=self._rate_used,
            grad_norm=norm,
            tokens=tokens,
            tokens_per_second=tokens / seconds,
            memory=peak_memory(self._model.device),
            task=rows[0].task,
        )

    def _accumulate(self, run: AdapterRun, rows: list[Encoded], labels: int) -> float:
        """Add the gradient of ``rows``' share of the step's mean loss; return that share."""
        pad = self._model.tokenizer.pad_token_id
        assert isinstance(pad, int)
        collated = collate(rows, pad_token_id=pad, device=self._model.device)
        targets = collated.pop("labels")
        batch: Mapping[str, Any] = collated
        names, task = [run.adapter.name] * len(rows), rows[0].task
        with self._model.route(names), self._model.answers_from(answer_starts(rows)), self._around(rows):
            if task in self._prefixes and self._around is no_trunk_cache:
                batch, targets = self._prefixes[task].cut(names, rows, batch, targets)
            forward = self._forward if self._tasks[task].headed is None else None
            loss = self._objectives[task](batch, targets, forward) / labels
            value = loss.item()
            if not math.isfinite(value):
                raise DivergedError(self._report(run, f"the loss is {value}", rows))
            self._accelerator.backward(run.scaler.scale(loss))
        return value

    def _update(self, run: AdapterRun, rows: list[Encoded]) -> float:
        """Clip and step; return the gradient norm. Nothing is changed where the norm is not finite."""
        parameters = [p for p in run.adapter.parameters() if p.grad is not None]
        run.scaler.unscale_(run.optimizer)
        limit = self._options.max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        # An fp16 overflow only costs this step, as long as the scale can still be lowered.
        if not math.isfinite(norm) and run.scaler.get_scale() <= 1:
            raise DivergedError(self._report(run, f"the gradient's norm is {norm}", rows))
        self._rate_used = float(run.rate.get_last_lr()[0])
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.rate.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.adapter.refresh()
        return norm

    def _report(self, run: AdapterRun, what: str, rows: list[Encoded]) -> str:
        names = ", ".join(row.origin for row in rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        steps = checkpoints.steps_in(self._output)
        last = f"the last checkpoint is {self._output / f'checkpoint-{steps[-1]}'}" if steps else "no checkpoint yet"
        return (
            f"{what} at step {run.progress.step + 1}, in rows {names}; learning rate {run.rate.get_last_lr()[0]:.3g};"
            f" the step was not taken, {last}. Lower --learning-rate, look at these rows, or try --dtype float32"
        )

    def _judge(self, run: AdapterRun, metrics: dict[str, float]) -> None:
        """Note an evaluation, and whether it is the best so far."""
        progress, key = run.progress, self._options.best_metric
        if key not in metrics:
            raise ConfigError(
                f"metric_for_best_model is '{key}', which is not measured; measured are {', '.join(metrics)}"
            )
        value = -metrics[key] if key.rpartition("/")[2] in HIGHER_IS_WORSE else metrics[key]
        better = math.isfinite(value) and (progress.best_value is None or value > progress.best_value)
        if better:
            progress.best_value, progress.best_step = value, progress.step
            progress.evaluations_without_improvement = 0
        else:
            progress.evaluations_without_improvement += 1
        self._listeners.evaluated(Evaluated(progress.step, run.epoch, metrics, better))

    def _save(self, run: AdapterRun) -> Path:
        folder = checkpoints.save(self._output, run.progress.step, run.checkpoint())
        self._listeners.saved(folder, run.progress.step)
        checkpoints.rotate(self._output, self._options.save_total_limit, run.progress.best_step)
        return folder

    def _take_best(self, run: AdapterRun) -> None:
        best = run.progress.best_step
        if best is not None and best != run.progress.step:
            run.adapter.load_tensors(checkpoints.load(self._output / f"checkpoint-{best}").masters)

    def _stop(self, signal_number: int) -> None:
        newest = checkpoints.steps_in(self._output)[-1:]
        # What was saved right after the last step is not written again over itself: a second signal could hit then.
        folders = [
            self._output / f"checkpoint-{run.progress.step}" if newest == [run.progress.step] else self._save(run)
            for run in self._runs
        ]
        raise Interrupted(
            f"stopped by a signal at step {self._runs[0].progress.step} of {self._runs[0].total_steps};"
            f" saved {folders[0]}. Go on with: petune train --resume --output-dir {self._output}",
            signal_number,
        )
