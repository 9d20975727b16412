"""Adapters trained together in one pass over their base, each with a folder and records of its own."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from accelerate import Accelerator

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError, PetuneError
from petune.evaluation.metrics import METRICS
from petune.sites.embeddings import vocabulary_size
from petune.sites.placement import Insertion
from petune.stacking import require_rows_apart
from petune.training import output, records
from petune.training.adapter_run import AdapterRun, Evaluate
from petune.training.bases import learned_tasks
from petune.training.checkpoints import Checkpoint, set_random_state
from petune.training.drafts import Draft, about
from petune.training.estimate import Estimate
from petune.training.events import Listener
from petune.training.loop import Loop, LoopTask
from petune.training.memory import peak_memory
from petune.training.recipe import Recipe
from petune.training.result import Outcome, TrainingResult, run_summary, save_run
from petune.training.rows import RunRows, data_format, encode_rows, record_start, told_of
from petune.training.signals import telling_how_to_go_on
from petune.training.task_entries import RunTask
from petune.training.validation import sample_of, validation


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A run that is ready to train: its adapter made for the base, its rows encoded."""

    draft: Draft
    adapter: Adapter
    data: tuple[RunRows, ...]
    """The rows of each task."""
    checkpoint: Checkpoint | None = None
    """Where it goes on from; None for a fresh start."""
    listeners: Sequence[Listener] = ()
    """Who follows it."""


@final
@dataclass(frozen=True, slots=True)
class _Member:
    entry: Entry
    run: AdapterRun
    accelerator: Accelerator


def ready(
    draft: Draft,
    base: Base,
    name: str = "default",
    *,
    checkpoint: Checkpoint | None = None,
    listeners: Sequence[Listener] = (),
) -> Entry:
    """Make the adapter of ``draft`` for ``base``, called ``name``, and encode its rows.

    Raises:
        ConfigError: the adapter cannot be made on this base.
        DataError: rows are too long, or nothing is left to learn.
    """
    options = draft.recipe.run
    torch.manual_seed(options.seed)
    settings = draft.recipe.method.model_dump()
    adapter = create_adapter(base, options.method, name=name, seed=options.seed, **settings)
    placement, virtual_tokens, data = adapter.placement, adapter.virtual_tokens, []
    insertions = () if placement is None else (Insertion(placement, vocabulary_size(base.model)),)
    for task, rows in zip(*draft.learned, strict=True):
        with told_of(task.name):
            data.append(encode_rows(rows, base, name=task.name, virtual_tokens=virtual_tokens, insertions=insertions))
    return Entry(draft, adapter, tuple(data), checkpoint, listeners)


@final
class OnePass:
    """The training of several adapters on one base, a step of each at a time.

    Args:
        base: the base.
        entries: what is trained; several at once share the base's work.
        overwrite: clear the runs that the folders hold.
        how_to_go_on: what to do after a signal has stopped the training.
        estimate: whether to tell the listeners, before the first step, what time and memory it will take.
    """

    def __init__(
        self,
        base: Base,
        entries: Sequence[Entry],
        *,
        overwrite: bool,
        how_to_go_on: str,
        estimate: bool | float = False,
    ) -> None:
        self._base = base
        self._entries = entries
        self._overwrite = overwrite
        self._how_to_go_on = how_to_go_on
        self._estimate = estimate
        self._model = AdaptedModel(base)
        self._results: dict[str, TrainingResult] = {}
        self._open: dict[str, _Member] = {}

    def run(self) -> list[Outcome]:
        """Train every adapter to its end, and write its folder as soon as that is reached.

        Afterwards the adapters that did not fail are attached, and active where there is but one entry.

        Raises:
            PetuneError: what concerns all of them, or a signal; the base is given back as it was.
        """
        if len(self._entries) > 1:
            require_rows_apart((entry.adapter for entry in self._entries), self._base.structure)
        folders = [entry.draft.folder for entry in self._entries]
        with telling_how_to_go_on(folders, self._how_to_go_on), _detached_on_error(self._model):
            members = []
            for entry in self._entries:
                with about(entry.adapter.name if len(self._entries) > 1 else ""):
                    members.append(self._member(entry))
            _restore_random_state(members)
            began = time.perf_counter()
            for member in members:
                entry = member.entry
                if self._overwrite:
                    output.clear(entry.draft.folder)
                record_start(entry.draft.recipe, entry.draft.folder, entry.data)
                self._open[entry.adapter.name] = member
            self._train(members, began)
        return [
            Outcome(name, member.entry.draft.recipe, self._results.get(name), member.run.error)
            for name, member in ((member.entry.adapter.name, member) for member in members)
        ]

    def _member(self, entry: Entry) -> _Member:
        """Attach the adapter, and return its run, brought to where it goes on."""
        options, folder, data = entry.draft.recipe.run, entry.draft.folder, entry.data
        if data[0].name:
            entry.adapter.tasks = learned_tasks(self._base, entry.draft.rows, data)
        else:
            entry.adapter.data_format = data_format(entry.draft.rows[0].options, data[0].examples, self._base)
        entry.adapter.set_trainable(True)
        self._model.attach(entry.adapter, active=len(self._entries) == 1)
        rows = [row for of_task in data for row in of_task.rows.rows]
        weights = {task.name: task.weight for task in entry.draft.tasks if task.weight is not None}
        judged_by = [row for of_task in data if of_task.eval_rows is not None for row in of_task.eval_rows.rows]
        run = AdapterRun(entry.adapter, rows, options, self._base, folder, weights, judged_by)
        measure = validation(self._model, entry.draft.tasks, data, options)
        run.evaluate = None if measure is None else partial(_alone, self._model, measure)
        sample = sample_of(data) if self._estimate else None
        few = None if sample is None else validation(self._model, _own_metrics(entry.draft.tasks), sample[0], options)
        if sample is not None and few is not None:
            run.sample = (partial(_alone, self._model, few), sample[1])
        # For trackers alone: what else it would do goes by state and environment of the process, not by the recipe.
        accelerator = Accelerator(log_with=list(options.report_to) or None, project_dir=str(folder))
        if accelerator.num_processes > 1:
            raise ConfigError("training runs in one process; start it with petune train, not with a launcher")
        run.listeners.add(records.Recorder(run, folder, accelerator), *entry.listeners)
        if entry.checkpoint is not None:
            run.restore(entry.checkpoint)
        return _Member(entry, run, accelerator)

    def _train(self, members: Sequence[_Member], began: float) -> None:
        def finish(run: AdapterRun) -> None:
            member = self._open[run.adapter.name]
            try:
                self._close(member)
                if run.error is None:
                    seconds = time.perf_counter() - began - loop.rehearsed
                    self._results[run.adapter.name] = self._kept(member, seconds, loop.estimate)
            except PetuneError as error:
                run.error = run.error or error
            if run.error is not None:
                self._model.detach(run.adapter.name)

        try:
            for member in members:
                options = member.entry.draft.recipe.run
                if options.report_to:
                    name = options.run_name or member.entry.draft.folder.name
                    member.accelerator.init_trackers(name, config=_flat(member.entry.draft.recipe.keys()))
            heads = self._base.heads
            tasks = {
                rows.name: LoopTask(rows.task, heads[rows.name].model if rows.name in heads else None)
                for rows in members[0].entry.data
            }
            runs = [member.run for member in members]
            loop = Loop(self._model, runs, tasks, finish, self._how_to_go_on)
            loop.run(estimate=self._estimate)
        finally:
            for member in list(self._open.values()):
                self._close(member)
            self._model.eval()

    def _close(self, member: _Member) -> None:
        """Write the records of a run that ends here."""
        run, folder = member.run, member.entry.draft.folder
        del self._open[run.adapter.name]
        records.write_trainer_state(run, folder)
        if run.progress.history:
            records.plot_loss(run, folder)
        member.accelerator.end_training()
        run.adapter.eval()
        run.adapter.set_trainable(False)

    def _kept(self, member: _Member, seconds: float, estimate: Estimate | None) -> TrainingResult:
        """Return the result of a run that has reached its end, after its folder was written."""
        run, entry = member.run, member.entry
        self._model.bake(run.adapter.name)
        result = TrainingResult(
            model=self._model,
            output_dir=entry.draft.folder,
            steps=run.progress.step,
            kept_step=run.kept_step,
            seconds=seconds,
            peak_memory=peak_memory(self._base.device),
            trained_parameters=run.trained_parameters,
            history=run.progress.history,
            reports=tuple((of_task.rows.report, of_task.eval_report) for of_task in entry.data),
            estimate=estimate,
            adapter_name=run.adapter.name,
        )
        save_run(result, _summary(result, entry.draft.recipe, run))
        return result


def _restore_random_state(members: Sequence[_Member]) -> None:
    """Bring the random generators, which are everybody's, to where the run is that has come farthest.

    After a signal all runs that go on were saved with the same state.
    """
    saved = [(m.run.progress.step, m.entry.checkpoint) for m in members if m.run.goes_on or len(members) == 1]
    _, newest = max(saved, key=lambda pair: pair[0], default=(0, None))
    if newest is not None:
        set_random_state(newest.random)


@contextmanager
def _detached_on_error(model: AdaptedModel) -> Iterator[None]:
    """Give a caller's base back as it was where the runs fail or are interrupted."""
    try:
        yield
    except BaseException:
        for name in tuple(model.adapters):
            model.detach(name)
        raise


def _alone(model: AdaptedModel, measure: Evaluate, run: AdapterRun) -> dict[str, float]:
    """Measure ``run`` with every row going through its adapter, and no other."""
    before = model.active
    model.activate(run.adapter.name)
    try:
        return measure(run)
    finally:
        model.activate(*before)


def _own_metrics(tasks: Sequence[RunTask]) -> list[RunTask]:
    """Return the tasks without metrics of the user's own, which may not bear to be called once more."""
    return [replace(task, metrics=tuple(name for name in task.metrics if name in METRICS)) for task in tasks]


def _summary(result: TrainingResult, recipe: Recipe, run: AdapterRun) -> dict[str, Any]:
    return {
        **run_summary(result, recipe),
        "epochs": round(run.epoch, 4),
        "learning_rate": run.optimizer.defaults["lr"],
        "trained_parameters": result.trained_parameters,
        "train_loss": result.train_loss,
        "best_step": run.progress.best_step,
    }


def _flat(keys: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the keys as trackers take them: plain values, the rest as JSON text."""
    return {k: v if isinstance(v, str | int | float | bool) else json.dumps(v) for k, v in keys.items()}
