"""A run as far as it can be made ready before its base loads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from accelerate.utils import (
    is_mlflow_available,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from petune import methods
from petune.adapter import build_adapter
from petune.backbone.base import Base, load_base, load_base_config, meta_model
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.errors import CheckpointError, ConfigError, MissingExtraError, PetuneError
from petune.evaluation.metrics import resolve_metric
from petune.tasks.rows import TaskRows, read_rows_for
from petune.training import checkpoints, output
from petune.training.recipe import FILE_NAME, Recipe, RunOptions

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
    forms: tuple[TaskRows, ...]
    """The rows, read in each way that the method tries; in one way, where it trains."""

    @property
    def folder(self) -> Path:
        """Where the adapter goes."""
        return Path(self.recipe.run.output_dir)

    @property
    def rows(self) -> TaskRows:
        """The rows, read in the first way."""
        return self.forms[0]


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
    if options.data is None:
        raise ConfigError("no training data: give --data with a file or a hub data set id")
    _require_trackers(options.report_to)
    method = methods.get(options.method)
    written = [options.model_copy(update=dict(form)) for form in method.candidates(recipe.method)]
    metrics = (*options.metrics, *filter(None, [method.selection_metric(recipe.method)]))
    for metric in metrics:
        resolve_metric(metric)
    task = options.task if base is None else _task_of(base, options)
    read = [read_rows_for(candidate, task=task, seed=options.seed) for candidate in written]
    folder = Path(options.output_dir)
    output.refuse_base_folder(folder, options.model if base is None else base.name)
    output.prepare(folder, resume=resume, overwrite=overwrite)
    configuration = partial(
        load_base_config, options.model, revision=options.revision, trust_remote_code=trust_remote_code
    )
    forms = tuple(form.settled(configuration) for form in read)
    forms[0].task.check_metrics(metrics)
    return Draft(recipe, forms)


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
    """Return the base that all ``drafts``, by name, are for, with the head of their task.

    The adapters are built for the base's shapes first, so that what cannot be is told before the weights load.

    Raises:
        PetuneError: the base cannot be had, or an adapter cannot be made for it.
    """
    first = next(iter(drafts.values()))
    options = first.recipe.run
    where: dict[str, Any] = {
        "task": first.rows.task.name,
        "labels": first.rows.labels,
        "revision": options.revision,
        "trust_remote_code": trust_remote_code,
    }
    skeleton = meta_model(options.model, **where)
    for name, one in drafts.items():
        with about(name):
            build_adapter(one.recipe.run.method, one.recipe.method.model_dump(), skeleton, Structure(skeleton))
    return load_base(options.model, seed=options.seed, dtype=options.dtype, device=options.device, **where)


@contextmanager
def about(name: str) -> Iterator[None]:
    """Put ``name``, that of the adapter an error is about, in front of its message; nothing where it is empty."""
    try:
        yield
    except PetuneError as error:
        if not name:
            raise
        raise type(error)(f"{name}: {error}") from error


def _require_trackers(trackers: Sequence[str]) -> None:
    for tracker in trackers:
        if not _TRACKERS[tracker]():
            raise MissingExtraError(
                f"--report-to {tracker} needs a package that is not installed: pip install 'petune[{tracker}]'"
            )


def _task_of(base: Base, options: RunOptions) -> TaskName:
    if options.task not in (None, base.task):
        raise ConfigError(
            f'the task is {options.task}, but the base was loaded for {base.task}; load it with task="{options.task}"'
        )
    return base.task
