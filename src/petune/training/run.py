"""One training run, from recipe to adapter folder."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from accelerate import Accelerator
from accelerate.utils import (
    is_mlflow_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base, load_base
from petune.checkpoint.durable import write_text
from petune.checkpoint.folder import save_adapter
from petune.data.loading import check_files
from petune.data.options import DataOptions
from petune.data.report import DataReport
from petune.errors import CheckpointError, ConfigError, MissingExtraError
from petune.evaluation.evaluate import evaluate
from petune.evaluation.metrics import resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.training import checkpoints, output, records
from petune.training.adapter_run import AdapterRun
from petune.training.events import Listener, Listeners
from petune.training.loop import Evaluate, Loop
from petune.training.memory import peak_memory
from petune.training.recipe import FILE_NAME as RECIPE_FILE
from petune.training.recipe import Recipe
from petune.training.recomputation import gradient_checkpointing
from petune.training.rows import RunRows, data_format, encode_rows
from petune.training.signals import telling_how_to_go_on

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

    kept_step: int
    """The step after which the adapter was as it is kept: that of the best evaluation, or the last."""

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
        """Metrics of the adapter that is kept, on the validation rows; empty without such rows."""
        evaluations = (e for e in self.history if e["step"] == self.kept_step and "eval_loss" in e)
        return {n.removeprefix("eval_"): v for e in evaluations for n, v in e.items() if n.startswith("eval_")}


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
    for metric in options.metrics:
        resolve_metric(metric)
    checked = check_files(options, seed=options.seed)
    output.refuse_base_folder(folder, options.model if base is None else base.name)
    output.prepare(folder, resume=resume, overwrite=overwrite)
    checkpoint = _checkpoint_to_resume(folder, recipe) if resume else None
    if base is None:
        base = load_base(
            options.model,
            dtype=options.dtype,
            device=options.device,
            revision=options.revision,
            trust_remote_code=trust_remote_code,
        )
    adapter = _fresh_adapter(recipe, base)
    data = encode_rows(checked, options, base, virtual_tokens=adapter.virtual_tokens)
    if on_data is not None:
        on_data(data.rows.report, data.eval_report)
    model = _attached(adapter, base, options, data)
    began = time.perf_counter()
    with telling_how_to_go_on(folder), _detached_on_error(model):
        run = AdapterRun(model.adapter("default"), data.rows.rows, options, base)
        if checkpoint is not None:
            run.restore(checkpoint)
        if overwrite:
            output.clear(folder)
        _record_start(recipe, folder, data)
        _optimise(recipe, run, model, data, listeners)
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
        summary = _summary(result, recipe, run)
        write_text(folder / output.RESULTS_FILE, json.dumps(summary, indent=2) + "\n")
        save_adapter(model, folder, training=summary)
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


def _fresh_adapter(recipe: Recipe, base: Base) -> Adapter:
    torch.manual_seed(recipe.run.seed)
    return create_adapter(base, recipe.run.method, seed=recipe.run.seed, **recipe.method.model_dump())


def _attached(adapter: Adapter, base: Base, options: DataOptions, data: RunRows) -> AdaptedModel:
    adapter.data_format = data_format(options, data.examples)
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


def _record_start(recipe: Recipe, folder: Path, data: RunRows) -> None:
    write_text(folder / RECIPE_FILE, recipe.to_yaml())
    reports = {"train": data.rows.report.to_dict()}
    if data.eval_report is not None:
        reports["eval"] = data.eval_report.to_dict()
    write_text(folder / output.REPORT_FILE, json.dumps(reports, indent=2, ensure_ascii=False) + "\n")


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
            Loop(model, [run], options, accelerator, folder, everyone, _evaluation(model, data, recipe)).run()
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
        return dict(evaluate(model, examples, wanted, rows=rows).metrics)

    return measure


def _kept_step(run: AdapterRun) -> int:
    best = run.progress.best_step if run.options.load_best_model_at_end else None
    return run.progress.step if best is None else best


def _summary(result: TrainingResult, recipe: Recipe, run: AdapterRun) -> dict[str, Any]:
    options, report = recipe.run, result.train_report
    return {
        "data": options.data,
        "rows": report.rows_kept,
        "steps": result.steps,
        "epochs": round(run.epoch, 4),
        "learning_rate": run.optimizer.defaults["lr"],
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
