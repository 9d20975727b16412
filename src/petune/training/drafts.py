"""A run as far as it can be made ready before its base loads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from accelerate.utils import (
    is_mlflow_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from petune import methods
from petune.backbone.base import Base, load_base, load_base_config, meta_model
from petune.backbone.precision import pick_device
from petune.errors import CheckpointError, ConfigError, MissingExtraError, PetuneError
from petune.evaluation.metrics import resolve_metric
from petune.tasks.rows import TaskRows, read_rows_for
from petune.training import checkpoints, output
from petune.training.bases import base_for, check_heads, require_fit, task_on
from petune.training.compiled_blocks import require_compiler
from petune.training.recipe import FILE_NAME, Recipe
from petune.training.rows import told_of
from petune.training.task_entries import RunTask

_TRACKERS = {
    "tensorboard": is_tensorboard_available,
    "wandb": is_wandb_available,
    "mlflow": is_mlflow_available,
    "trackio": is_trackio_available,
}


@final
@dataclass(frozen=True, slots=True)
class Draft:
    """A run whose recipe, rows and folder are sound."""

    recipe: Recipe
    tasks: tuple[RunTask, ...]
    """The tasks of the run; or its one task in each way to write its rows, for a method that chooses."""
    rows: tuple[TaskRows, ...]
    """The rows of each."""

    @property
    def folder(self) -> Path:
        """Where the adapter goes."""
        return Path(self.recipe.run.output_dir)

    @property
    def learned(self) -> tuple[tuple[RunTask, ...], tuple[TaskRows, ...]]:
        """The tasks that the base needs a head for, and their rows: several ways to write rows need one head."""
        count = len(self.tasks) if self.recipe.run.tasks else 1
        return self.tasks[:count], self.rows[:count]


def draft(
    recipe: Recipe, *, base: Base | None, resume: bool = False, overwrite: bool = False, trust_remote_code: bool = False
) -> Draft:
    """Check all of a run that can be checked without its base's weights, and make its folder.

    Args:
        recipe: the run.
        base: the base, where it is loaded already.
        resume: whether the run in the folder is to go on.
        overwrite: whether the run in the folder is to be replaced.
        trust_remote_code: let the base's repository run its own code.

    Raises:
        PetuneError: the recipe, the data or the folder cannot be used.
    """
    options = recipe.run
    if options.data is None and not options.tasks:
        raise ConfigError("no training data: give --data with a file or a hub data set id")
    _require_trackers(recipe)
    if options.torch_compile:
        on = (pick_device(options.device), options.quantization) if base is None else (base.device, base.quantization)
        require_compiler(*on)
    method = methods.get(options.method)
    if options.tasks and not method.trains:
        raise ConfigError(f"{method.title} trains nothing, so it cannot be trained for several tasks; give data alone")
    tasks = _ways_to_write(recipe)
    for task in tasks:
        for metric in task.metrics:
            resolve_metric(metric)
    read = []
    for task in tasks:
        with told_of(task.name):
            wanted = task.task if base is None else task_on(base, task)
            read.append(read_rows_for(task.data, task=wanted, seed=options.seed))
    folder = Path(options.output_dir)
    output.refuse_base_folder(folder, options.model if base is None else base.name)
    output.prepare(folder, resume=resume, overwrite=overwrite)
    configuration = partial(
        load_base_config, options.model, revision=options.revision, trust_remote_code=trust_remote_code
    )
    rows = []
    for task, found in zip(tasks, read, strict=True):
        with told_of(task.name):
            rows.append(found.settled(configuration))
            rows[-1].task.check_metrics(task.metrics)
    if base is not None and options.tasks:
        check_heads(base, tasks, rows)
    return Draft(recipe, tasks, tuple(rows))


def checkpoint_to_resume(recipe: Recipe) -> checkpoints.Checkpoint:
    """Return the newest checkpoint in the run's folder.

    Raises:
        CheckpointError: there is none, it is damaged, or the run had other settings.
    """
    folder = Path(recipe.run.output_dir)
    _, checkpoint = checkpoints.newest(folder)
    differences = Recipe.read(folder / FILE_NAME).differences(recipe)
    if differences:
        raise CheckpointError(
            f"{folder} was trained with other settings: {'; '.join(differences)}. Resume with the same ones"
            " (petune train --resume --output-dir alone takes them from the folder), or start anew with --overwrite"
        )
    return checkpoint


def load_base_for(drafts: Mapping[str, Draft], *, trust_remote_code: bool) -> Base:
    """Return the base that all ``drafts``, by name, are for, with a head for each of their tasks.

    The adapters are built for the base's shapes first, so that what cannot be is told before the weights load.

    Raises:
        PetuneError: the base cannot be had, or an adapter cannot be made for it.
    """
    first = next(iter(drafts.values()))
    options = first.recipe.run
    where = base_for(first.recipe, *first.learned, trust_remote_code=trust_remote_code)
    skeleton = meta_model(options.model, **where)
    for name, one in drafts.items():
        with about(name):
            require_fit(one.recipe, *one.learned, skeleton)
    return load_base(
        options.model,
        seed=options.seed,
        dtype=options.dtype,
        device=options.device,
        quantization=options.quantization,
        **where,
    )


@contextmanager
def about(name: str) -> Iterator[None]:
    """Put ``name``, that of the adapter an error is about, in front of its message; nothing where it is empty."""
    try:
        yield
    except PetuneError as error:
        if not name:
            raise
        raise type(error)(f"{name}: {error}") from error


def _require_trackers(recipe: Recipe) -> None:
    for tracker in recipe.run.report_to:
        if not _TRACKERS[tracker]():
            raise MissingExtraError(
                f"--report-to {tracker} needs a package that is not installed: pip install 'petune[{tracker}]'"
            )


def _ways_to_write(recipe: Recipe) -> tuple[RunTask, ...]:
    method = methods.get(recipe.run.method)
    metrics = tuple(filter(None, [method.selection_metric(recipe.method)]))
    return tuple(
        replace(task, data=task.data.model_copy(update=dict(form)), metrics=(*task.metrics, *metrics))
        for task in recipe.run.run_tasks()
        for form in method.candidates(recipe.method)
    )
