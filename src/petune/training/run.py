"""One training run, from recipe to adapter folder."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final, get_args

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
from petune.adapter import build_adapter, create_adapter
from petune.backbone.base import Base, load_base, load_base_config, meta_model
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.checkpoint.durable import write_text
from petune.checkpoint.folder import save_adapter
from petune.data.encoding import EncodedSet, resolve_max_length
from petune.data.examples import ExampleSet
from petune.data.loading import render_examples
from petune.data.options import FORMAT_FIELDS, DataOptions, LayoutName
from petune.data.report import DataReport
from petune.errors import CheckpointError, ConfigError, MissingExtraError
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import are_choices
from petune.evaluation.runner import context_length
from petune.evaluation.scoring import distinct_labels
from petune.sites.embeddings import vocabulary_size
from petune.sites.placement import Insertion
from petune.tasks.rows import TaskRows, read_rows_for
from petune.tasks.task import Task
from petune.training import checkpoints, output, records
from petune.training.adapter_run import AdapterRun
from petune.training.events import Listener, Listeners
from petune.training.loop import Evaluate, Loop, peak_memory
from petune.training.recipe import Recipe, RunOptions
from petune.training.recomputation import gradient_checkpointing

_TRACKERS = {
    "tensorboard": is_tensorboard_available,
    "wandb": is_wandb_available,
    "mlflow": is_mlflow_available,
    "trackio": is_trackio_available,
}


@final
@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training run made."""

    model: AdaptedModel
    """The base with the trained adapter attached, ready to use."""

    output_dir: Path
    """The adapter's folder."""

    steps: int
    """Optimiser steps done."""

    seconds: float
    """Time of the steps of this process, evaluations included."""

    peak_memory: int
    """Most bytes held: by the process on CPU, by tensors on CUDA."""

    history: list[dict[str, Any]]
    """The entries of ``metrics.jsonl``."""

    train_report: DataReport
    """What became of the training rows."""

    eval_report: DataReport | None
    """What became of the validation rows."""

    @property
    def train_loss(self) -> float:
        """Training loss of the last entry (nats per label token)."""
        return next(float(e["loss"]) for e in reversed(self.history) if "loss" in e)

    @property
    def eval_metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation; empty without validation rows."""
        last: dict[str, Any] = next((e for e in reversed(self.history) if "eval_loss" in e), {})
        return {name.removeprefix("eval_"): v for name, v in last.items() if name.startswith("eval_")}


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
    """Train one adapter and write its folder.

    Args:
        recipe: a recipe, its keys, or the path of its YAML file.
        base: a base loaded already, instead of the recipe's ``model``.
        resume: go on from the newest checkpoint in ``output_dir``.
        overwrite: replace the run that ``output_dir`` holds.
        trust_remote_code: let the base's repository run its own code.
        listeners: told of every step, evaluation and checkpoint.
        on_data: given the data reports of the training and validation rows before the first step.

    Raises:
        PetuneError: see :mod:`petune.errors`; bad input is found before the base loads wherever it can be.
    """
    recipe = _as_recipe(recipe)
    options, folder = recipe.run, Path(recipe.run.output_dir)
    if options.data is None:
        raise ConfigError("no training data: give --data with a file or a hub data set id")
    _require_trackers(options.report_to)
    rows = read_rows_for(
        options,
        task=options.task if base is None else _task_of(base, options),
        configuration=partial(
            load_base_config, options.model, revision=options.revision, trust_remote_code=trust_remote_code
        ),
        seed=options.seed,
    )
    rows.task.check_metrics(options.metrics)
    output.prepare(folder, resume=resume, overwrite=overwrite)
    checkpoint = _checkpoint_to_resume(folder, recipe) if resume else None
    if base is None:
        _refuse_impossible(recipe, rows, trust_remote_code=trust_remote_code)
        base = load_base(
            options.model,
            task=rows.task.name,
            labels=rows.labels,
            seed=options.seed,
            dtype=options.dtype,
            device=options.device,
            revision=options.revision,
            trust_remote_code=trust_remote_code,
        )
    output.refuse_base_folder(folder, base)
    data = _encode(rows, recipe, base)
    if on_data is not None:
        on_data(data.rows.report, data.eval_report)
    model = _start(recipe, base, rows.options, data)
    began = time.perf_counter()
    with _detached_on_error(model):
        run = AdapterRun(model.adapter("default"), data.rows.rows, options, base)
        if checkpoint is not None:
            run.restore(checkpoint)
        _record_start(recipe, folder, data)
        _optimise(recipe, run, model, data, listeners)
        model.bake(run.adapter.name)
    result = TrainingResult(
        model=model,
        output_dir=folder,
        steps=run.progress.step,
        seconds=time.perf_counter() - began,
        peak_memory=peak_memory(base.device),
        history=run.progress.history,
        train_report=data.rows.report,
        eval_report=data.eval_report,
    )
    summary = _summary(result, recipe, run)
    write_text(folder / output.RESULTS_FILE, json.dumps(summary, indent=2) + "\n")
    save_adapter(model, folder, training=summary)
    return result


@dataclass(frozen=True, slots=True)
class _Data:
    """Encoded training rows; encoded and rendered validation rows, where there are any; and what they are for."""

    task: Task
    examples: ExampleSet
    rows: EncodedSet
    eval_rows: EncodedSet | None
    eval_examples: ExampleSet | None

    @property
    def eval_report(self) -> DataReport | None:
        return None if self.eval_rows is None else self.eval_rows.report


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
    differences = Recipe.read(folder / output.RECIPE_FILE).differences(recipe)
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


def _refuse_impossible(recipe: Recipe, rows: TaskRows, *, trust_remote_code: bool) -> None:
    """Build the adapter for the base's shapes alone, so that what cannot be is told before the weights load."""
    options = recipe.run
    skeleton = meta_model(
        options.model,
        task=rows.task.name,
        labels=rows.labels,
        revision=options.revision,
        trust_remote_code=trust_remote_code,
    )
    build_adapter(options.method, recipe.method.model_dump(), skeleton, Structure(skeleton), shapes_only=True)


def _encode(rows: TaskRows, recipe: Recipe, base: Base) -> _Data:
    options, tokenizer = recipe.run, base.tokenizer
    assert rows.data.train is not None
    longest = resolve_max_length(options.max_length, tokenizer, model_limit=context_length(base.model))
    placement = methods.get(options.method).placement(recipe.method, base.structure)
    encode = partial(
        rows.task.encode,
        labels=base.labels,
        max_length=longest,
        overlong=options.overlong,
        insertions=[] if placement is None else [Insertion(placement, vocabulary_size(base.model))],
    )
    examples = render_examples(rows.data.train, rows.options, tokenizer)
    encoded = encode(examples, tokenizer)
    if rows.data.eval is None:
        return _Data(rows.task, examples, encoded, None, None)
    eval_examples = render_examples(rows.data.eval, rows.options, tokenizer)
    return _Data(rows.task, examples, encoded, encode(eval_examples, tokenizer), eval_examples)


def _start(recipe: Recipe, base: Base, reading: DataOptions, data: _Data) -> AdaptedModel:
    options = recipe.run
    torch.manual_seed(options.seed)
    adapter = create_adapter(base, options.method, seed=options.seed, **recipe.method.model_dump())
    adapter.data_format = data_format(reading, data.examples)
    if not base.labels and are_choices(data.examples):  # the words to compare, where no head names its classes
        adapter.data_format["labels"] = list(distinct_labels(data.examples))
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


def data_format(options: DataOptions, examples: ExampleSet) -> dict[str, Any]:
    """Return how the rows became text, for the adapter to remember."""
    form: dict[str, Any] = {name: getattr(options, name) for name in FORMAT_FIELDS}
    if examples.layout in get_args(LayoutName):  # what auto found
        form["layout"] = examples.layout
    return form


def _record_start(recipe: Recipe, folder: Path, data: _Data) -> None:
    write_text(folder / output.RECIPE_FILE, recipe.to_yaml())
    reports = {"train": data.rows.report.to_dict()}
    if data.eval_report is not None:
        reports["eval"] = data.eval_report.to_dict()
    write_text(folder / output.REPORT_FILE, json.dumps(reports, indent=2, ensure_ascii=False) + "\n")


def _optimise(recipe: Recipe, run: AdapterRun, model: AdaptedModel, data: _Data, listeners: Sequence[Listener]) -> None:
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


def _evaluation(model: AdaptedModel, data: _Data, recipe: Recipe) -> Evaluate | None:
    if data.eval_rows is None or data.eval_examples is None:
        return None
    examples, rows, options = data.eval_examples, data.eval_rows.rows, recipe.run
    wanted = EvaluationOptions(
        metrics=("loss", *(m for m in options.metrics if m != "loss")),
        batch_tokens=options.max_tokens_per_batch,
    )

    def measure(run: AdapterRun) -> dict[str, float]:
        return dict(data.task.evaluate(model, examples, wanted, rows=rows).metrics)

    return measure


def _summary(result: TrainingResult, recipe: Recipe, run: AdapterRun) -> dict[str, Any]:
    options, report = recipe.run, result.train_report
    return {
        "data": options.data,
        "rows": report.rows_kept,
        "steps": result.steps,
        "epochs": round(run.epoch, 4),
        "learning_rate": run.optimizer.defaults["lr"],
        "trained_parameters": run.adapter.num_parameters(),
        "seed": options.seed,
        "train_loss": result.train_loss,
        "eval": result.eval_metrics,
        "best_step": run.progress.best_step,
        "seconds": round(result.seconds, 1),
        "peak_memory_bytes": result.peak_memory,
    }


def _flat(keys: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Return the keys as trackers take them: plain values, the rest as JSON text."""
    return {k: v if isinstance(v, str | int | float | bool) else json.dumps(v) for k, v in keys.items()}
