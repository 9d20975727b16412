"""One training run, from recipe to adapter folder."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
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
from petune.adapter import Adapter, build_adapter, create_adapter
from petune.backbone.base import Base, load_base, load_base_config, meta_model
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.data.options import DataOptions
from petune.data.report import DataReport
from petune.errors import CheckpointError, ConfigError, MissingExtraError
from petune.evaluation.metrics import resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.sites.embeddings import vocabulary_size
from petune.sites.placement import Insertion
from petune.tasks.rows import TaskRows, read_rows_for
from petune.training import checkpoints, output, records, selection
from petune.training.adapter_run import AdapterRun
from petune.training.events import Listener, Listeners
from petune.training.loop import Evaluate, Loop
from petune.training.memory import peak_memory
from petune.training.recipe import FILE_NAME as RECIPE_FILE
from petune.training.recipe import Recipe, RunOptions
from petune.training.recomputation import gradient_checkpointing
from petune.training.result import TrainingResult, run_summary, save_run
from petune.training.rows import RunRows, data_format, encode_rows, record_start
from petune.training.signals import telling_how_to_go_on

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
            before the first step.

    Raises:
        PetuneError: see :mod:`petune.errors`; bad input is found before the base loads wherever it can be.
    """
    recipe = _as_recipe(recipe)
    options, folder = recipe.run, Path(recipe.run.output_dir)
    if options.data is None:
        raise ConfigError("no training data: give --data with a file or a hub data set id")
    _require_trackers(options.report_to)
    method = methods.get(options.method)
    written = [options.model_copy(update=dict(form)) for form in method.candidates(recipe.method)]
    metrics = (*options.metrics, *filter(None, [method.selection_metric(recipe.method)]))
    for metric in metrics:
        resolve_metric(metric)
    task = options.task if base is None else _task_of(base, options)
    drafts = [read_rows_for(candidate, task=task, seed=options.seed) for candidate in written]
    output.refuse_base_folder(folder, options.model if base is None else base.name)
    output.prepare(folder, resume=resume, overwrite=overwrite)
    checkpoint = _checkpoint_to_resume(folder, recipe) if resume else None
    configuration = partial(
        load_base_config, options.model, revision=options.revision, trust_remote_code=trust_remote_code
    )
    checked = [draft.settled(configuration) for draft in drafts]
    rows = checked[0]
    rows.task.check_metrics(metrics)
    if base is None:
        base = _load(recipe, rows, trust_remote_code=trust_remote_code)
    adapter = _fresh_adapter(recipe, base)
    placement = adapter.placement
    insertions = () if placement is None else (Insertion(placement, vocabulary_size(base.model)),)
    data = encode_rows(rows, base, virtual_tokens=adapter.virtual_tokens, insertions=insertions)
    if on_data is not None:
        on_data(data.rows.report, data.eval_report)
    if not method.trains:
        return selection.choose(recipe, base, adapter, checked, overwrite=overwrite)
    model = _attached(adapter, base, rows.options, data)
    began = time.perf_counter()
    with telling_how_to_go_on(folder), _detached_on_error(model):
        run = AdapterRun(model.adapter("default"), data.rows.rows, options, base)
        if checkpoint is not None:
            run.restore(checkpoint)
        if overwrite:
            output.clear(folder)
        record_start(recipe, folder, data)
        _optimise(recipe, run, model, data, listeners)
        model.bake(run.adapter.name)
        result = TrainingResult(
            model=model,
            output_dir=folder,
            steps=run.progress.step,
            kept_step=_kept_step(run),
            seconds=time.perf_counter() - began,
            peak_memory=peak_memory(base.device),
            history=run.progress.history,
            train_report=data.rows.report,
            eval_report=data.eval_report,
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


def _task_of(base: Base, options: RunOptions) -> TaskName:
    if options.task not in (None, base.task):
        raise ConfigError(
            f'the task is {options.task}, but the base was loaded for {base.task}; load it with task="{options.task}"'
        )
    return base.task


def _load(recipe: Recipe, rows: TaskRows, *, trust_remote_code: bool) -> Base:
    """Return the base for the rows' task.

    The adapter is built for the base's shapes first, so that what cannot be is told before the weights load.
    """
    options = recipe.run
    where: dict[str, Any] = {
        "task": rows.task.name,
        "labels": rows.labels,
        "revision": options.revision,
        "trust_remote_code": trust_remote_code,
    }
    skeleton = meta_model(options.model, **where)
    adapter = build_adapter(options.method, recipe.method.model_dump(), skeleton, Structure(skeleton))
    for checked in filter(None, (rows.data.train, rows.data.eval)):
        rows.task.check_answers(checked, adapter.placement)
    return load_base(options.model, seed=options.seed, dtype=options.dtype, device=options.device, **where)


def _fresh_adapter(recipe: Recipe, base: Base) -> Adapter:
    torch.manual_seed(recipe.run.seed)
    return create_adapter(base, recipe.run.method, seed=recipe.run.seed, **recipe.method.model_dump())


def _attached(adapter: Adapter, base: Base, options: DataOptions, data: RunRows) -> AdaptedModel:
    adapter.data_format = data_format(options, data.examples, base)
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
    recipe: Recipe, run: AdapterRun, model: AdaptedModel, data: RunRows, listeners: Sequence[Listener]
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
            measure = _evaluation(model, data, recipe)
            Loop(model, [run], options, accelerator, folder, everyone, measure, data.task).run()
    finally:
        records.write_trainer_state(run, folder)
        if run.progress.history:
            records.plot_loss(run, folder)
        accelerator.end_training()
        model.eval()
        run.adapter.set_trainable(False)


def _evaluation(model: AdaptedModel, data: RunRows, recipe: Recipe) -> Evaluate | None:
    if data.eval_rows is None or data.eval_examples is None:
        return None
    examples, rows, options = data.eval_examples, data.eval_rows.rows, recipe.run
    names = ["loss", *options.metrics]
    if options.metric_for_best_model == "perplexity":
        names.append("perplexity")
    wanted = EvaluationOptions(metrics=tuple(dict.fromkeys(names)), batch_tokens=options.max_tokens_per_batch)

    def measure(run: AdapterRun) -> dict[str, float]:
        return dict(data.task.evaluate(model, examples, wanted, rows=rows).metrics)

    return measure


def _kept_step(run: AdapterRun) -> int:
    best = run.progress.best_step if run.options.load_best_model_at_end else None
    return run.progress.step if best is None else best


def _summary(result: TrainingResult, recipe: Recipe, run: AdapterRun) -> dict[str, Any]:
    return {
        **run_summary(result, recipe),
        "epochs": round(run.epoch, 4),
        "learning_rate": run.optimizer.defaults["lr"],
        "trained_parameters": run.adapter.num_parameters(),
        "train_loss": result.train_loss,
        "best_step": run.progress.best_step,
    }


def _flat(keys: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the keys as trackers take them: plain values, the rest as JSON text."""
    return {k: v if isinstance(v, str | int | float | bool) else json.dumps(v) for k, v in keys.items()}
