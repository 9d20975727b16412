"""One training run, from recipe to adapter folder."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    is_mlflow_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base, load_base_config
from petune.data.report import DataReport
from petune.errors import CheckpointError, ConfigError, MissingExtraError
from petune.evaluation.metrics import resolve_metric
from petune.sites.embeddings import vocabulary_size
from petune.sites.placement import Insertion
from petune.tasks.rows import Draft, TaskRows, read_rows_for
from petune.training import checkpoints, output, records, selection
from petune.training.adapter_run import AdapterRun
from petune.training.bases import check_heads, learned_tasks, load_base_for, task_on
from petune.training.events import Listener, Listeners
from petune.training.loop import Loop, LoopTask
from petune.training.memory import peak_memory
from petune.training.recipe import FILE_NAME as RECIPE_FILE
from petune.training.recipe import Recipe
from petune.training.recomputation import gradient_checkpointing
from petune.training.result import TrainingResult, run_summary, save_run
from petune.training.rows import RunRows, data_format, encode_rows, record_start, told_of
from petune.training.signals import telling_how_to_go_on
from petune.training.task_entries import RunTask
from petune.training.validation import validation

_TRACKERS = {
    "tensorboard": is_tensorboard_available,
    "wandb": is_wandb_available,
    "mlflow": is_mlflow_available,
    "trackio": is_trackio_available,
}


def train(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    base: Base | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    listeners: Sequence[Listener] = (),
    on_data: Callable[[DataReport, DataReport | None], None] | None = None,
) -> TrainingResult:
    """Train one adapter, or choose among candidates where its method does not train, and write its folder.

    Args:
        recipe: a recipe, its keys, or the path of its YAML file.
        base: a base loaded already, instead of the recipe's ``model``.
        resume: go on from the newest checkpoint in ``output_dir``.
        overwrite: replace the run that ``output_dir`` holds.
        trust_remote_code: let the base's repository run its own code.
        listeners: told of every step, evaluation and checkpoint.
        on_data: given the data reports of the training and validation rows (of several ways to write them, the first)
            before the first step; once for each task where the recipe names several.

    Raises:
        PetuneError: see :mod:`petune.errors`; bad input is found before the base loads wherever it can be.
    """
    recipe = _as_recipe(recipe)
    options, folder = recipe.run, Path(recipe.run.output_dir)
    if options.data is None and not options.tasks:
        raise ConfigError("no training data: give --data with a file or a hub data set id")
    _require_trackers(options.report_to)
    method = methods.get(options.method)
    if options.tasks and not method.trains:
        raise ConfigError(f"{method.title} trains nothing, so it cannot be trained for several tasks; give data alone")
    tasks = _ways_to_write(recipe)
    for task in tasks:
        for metric in task.metrics:
            resolve_metric(metric)
    drafts = [_draft(task, options.seed, base) for task in tasks]
    output.refuse_base_folder(folder, options.model if base is None else base.name)
    output.prepare(folder, resume=resume, overwrite=overwrite)
    checkpoint = _checkpoint_to_resume(folder, recipe) if resume else None
    checked = _settled(recipe, tasks, drafts, trust_remote_code=trust_remote_code)
    if base is None:
        wanted = slice(None if options.tasks else 1)  # several ways to write one task's rows need one head
        base = load_base_for(recipe, tasks[wanted], checked[wanted], trust_remote_code=trust_remote_code)
    elif options.tasks:
        check_heads(base, tasks, checked)
    adapter = _fresh_adapter(recipe, base)
    if not method.trains:
        rows = encode_rows(checked[0], base)
        if on_data is not None:
            on_data(rows.rows.report, rows.eval_report)
        return selection.choose(recipe, base, adapter, checked, overwrite=overwrite)
    data = _encoded(tasks, checked, base, adapter)
    if on_data is not None:
        for rows in data:
            on_data(rows.rows.report, rows.eval_report)
    model = _attached(adapter, base, checked, data)
    return _trained(recipe, model, tasks, data, checkpoint, listeners, overwrite=overwrite)


def _trained(
    recipe: Recipe,
    model: AdaptedModel,
    tasks: Sequence[RunTask],
    data: Sequence[RunRows],
    checkpoint: checkpoints.Checkpoint | None,
    listeners: Sequence[Listener],
    *,
    overwrite: bool,
) -> TrainingResult:
    """Train the attached adapter, from a checkpoint where there is one, and write its folder."""
    folder, began = Path(recipe.run.output_dir), time.perf_counter()
    with telling_how_to_go_on(folder), _detached_on_error(model):
        rows = [row for of_task in data for row in of_task.rows.rows]
        weights = {task.name: task.weight for task in tasks if task.weight is not None}
        run = AdapterRun(model.adapter("default"), rows, recipe.run, model.base, weights)
        if checkpoint is not None:
            run.restore(checkpoint)
        if overwrite:
            output.clear(folder)
        record_start(recipe, folder, data)
        _optimise(recipe, run, model, tasks, data, listeners)
        model.bake(run.adapter.name)
        result = TrainingResult(
            model=model,
            output_dir=folder,
            steps=run.progress.step,
            kept_step=_kept_step(run),
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(model.device),
            trained_parameters=run.trained_parameters,
            history=run.progress.history,
            reports=tuple((of_task.rows.report, of_task.eval_report) for of_task in data),
        )
        save_run(result, _summary(result, recipe, run))
    return result


def _as_recipe(recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.parse(recipe) if isinstance(recipe, Mapping) else Recipe.read(recipe)


def _require_trackers(trackers: Sequence[str]) -> None:
    for tracker in trackers:
        if not _TRACKERS[tracker]():
            raise MissingExtraError(
                f"--report-to {tracker} needs a package that is not installed: pip install 'petune[{tracker}]'"
            )


def _checkpoint_to_resume(folder: Path, recipe: Recipe) -> checkpoints.Checkpoint:
    _, checkpoint = checkpoints.newest(folder)
    differences = Recipe.read(folder / RECIPE_FILE).differences(recipe)
    if differences:
        raise CheckpointError(
            f"{folder} was trained with other settings: {'; '.join(differences)}. Resume with the same ones"
            " (petune train --resume --output-dir alone takes them from the folder), or start anew with --overwrite"
        )
    return checkpoint


def _ways_to_write(recipe: Recipe) -> list[RunTask]:
    """Return the tasks of the run; or its one task in each way to write its rows, for a method that chooses."""
    method = methods.get(recipe.run.method)
    metrics = tuple(filter(None, [method.selection_metric(recipe.method)]))
    return [
        replace(task, data=task.data.model_copy(update=dict(form)), metrics=(*task.metrics, *metrics))
        for task in recipe.run.run_tasks()
        for form in method.candidates(recipe.method)
    ]


def _draft(task: RunTask, seed: int, base: Base | None) -> Draft:
    with told_of(task.name):
        return read_rows_for(task.data, task=task.task if base is None else task_on(base, task), seed=seed)


def _settled(
    recipe: Recipe, tasks: Sequence[RunTask], drafts: Sequence[Draft], *, trust_remote_code: bool
) -> list[TaskRows]:
    """Return the rows, each for its task, which can give the metrics that are asked for."""
    options = recipe.run
    configuration = partial(
        load_base_config, options.model, revision=options.revision, trust_remote_code=trust_remote_code
    )
    found = []
    for task, draft in zip(tasks, drafts, strict=True):
        with told_of(task.name):
            found.append(draft.settled(configuration))
            found[-1].task.check_metrics(task.metrics)
    return found


def _encoded(tasks: Sequence[RunTask], checked: Sequence[TaskRows], base: Base, adapter: Adapter) -> list[RunRows]:
    placement, found = adapter.placement, []
    insertions = () if placement is None else (Insertion(placement, vocabulary_size(base.model)),)
    for task, rows in zip(tasks, checked, strict=True):
        with told_of(task.name):
            virtual_tokens = adapter.virtual_tokens
            found.append(encode_rows(rows, base, name=task.name, virtual_tokens=virtual_tokens, insertions=insertions))
    return found


def _fresh_adapter(recipe: Recipe, base: Base) -> Adapter:
    torch.manual_seed(recipe.run.seed)
    return create_adapter(base, recipe.run.method, seed=recipe.run.seed, **recipe.method.model_dump())


def _attached(adapter: Adapter, base: Base, checked: Sequence[TaskRows], data: Sequence[RunRows]) -> AdaptedModel:
    if data[0].name:
        adapter.tasks = learned_tasks(base, checked, data)
    else:
        adapter.data_format = data_format(checked[0].options, data[0].examples, base)
    adapter.set_trainable(True)
    return AdaptedModel(base, [adapter])


@contextmanager
def _detached_on_error(model: AdaptedModel) -> Iterator[None]:
    """Give a caller's base back as it was where the run fails or is interrupted."""
    try:
        yield
    except BaseException:
        for name in tuple(model.adapters):
            model.detach(name)
        raise


def _optimise(
    recipe: Recipe,
    run: AdapterRun,
    model: AdaptedModel,
    tasks: Sequence[RunTask],
    data: Sequence[RunRows],
    listeners: Sequence[Listener],
) -> None:
    options, folder = recipe.run, Path(recipe.run.output_dir)
    accelerator = Accelerator(
        cpu=model.device.type == "cpu", log_with=list(options.report_to) or None, project_dir=str(folder)
    )
    if accelerator.num_processes > 1:
        raise ConfigError("training runs in one process; start it with petune train, not with a launcher")
    if options.report_to:
        accelerator.init_trackers(options.run_name or folder.name, config=_flat(recipe.keys()))
    everyone = Listeners([records.Recorder(run, folder, accelerator), *listeners])
    recompute = gradient_checkpointing(model.model) if options.gradient_checkpointing else nullcontext()
    try:
        with recompute:
            measure, heads = validation(model, tasks, data, options), model.base.heads
            for_each = {
                rows.name: LoopTask(rows.task, heads[rows.name].model if rows.name in heads else None) for rows in data
            }
            Loop(model, [run], options, accelerator, folder, everyone, measure, for_each).run()
    finally:
        records.write_trainer_state(run, folder)
        if run.progress.history:
            records.plot_loss(run, folder)
        accelerator.end_training()
        model.eval()
        run.adapter.set_trainable(False)


def _kept_step(run: AdapterRun) -> int:
    best = run.progress.best_step if run.options.load_best_model_at_end else None
    return run.progress.step if best is None else best


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
