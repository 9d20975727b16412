"""The base of a run, with a head for each of its tasks."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from petune.adapter import LearnedTask, build_adapter
from petune.backbone.base import Base, load_base_config, meta_model
from petune.backbone.further_heads import HeadSpec, choose_own
from petune.backbone.heads import saved_task
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.errors import ConfigError
from petune.tasks.head_task import HeadTask
from petune.tasks.rows import TaskRows
from petune.training.recipe import Recipe
from petune.training.rows import RunRows, data_format, told_of
from petune.training.task_entries import RunTask


def base_for(
    recipe: Recipe, tasks: Sequence[RunTask], rows: Sequence[TaskRows], *, trust_remote_code: bool
) -> dict[str, Any]:
    """Return how the base is loaded for the rows of each task: what ``load_base`` and ``meta_model`` take beside it.

    Raises:
        ConfigError: no body of the base serves all the tasks.
        BaseModelError: the base's configuration cannot be had.
    """
    options = recipe.run
    where: dict[str, Any] = {"revision": options.revision, "trust_remote_code": trust_remote_code}
    heads: list[HeadSpec] = []
    for task, read in zip(tasks, rows, strict=True):
        # language modelling has the one head that was pretrained, however many tasks there are
        if isinstance(read.task, HeadTask) or all(head.task != read.task.name for head in heads):
            heads.append(HeadSpec(task.name, read.task.name, read.labels))
    own = 0
    if len(heads) > 1:
        config, _ = load_base_config(options.model, **where)
        own = choose_own(
            heads,
            lambda head: meta_model(options.model, task=head.task, labels=head.labels, **where),
            saved_task(config.architectures or (), config),
        )
    first = heads.pop(own)
    return where | {"task": first.task, "labels": first.labels, "heads": tuple(heads)}


def require_fit(recipe: Recipe, tasks: Sequence[RunTask], rows: Sequence[TaskRows], skeleton: PreTrainedModel) -> None:
    """Check that the adapter can be made for a base of these shapes, and that every row has a place for its answer.

    Raises:
        PetuneError: it cannot, or a row has none.
    """
    adapter = build_adapter(recipe.run.method, recipe.method.model_dump(), skeleton, Structure(skeleton))
    for task, read in zip(tasks, rows, strict=True):
        with told_of(task.name):
            for checked in filter(None, (read.data.train, read.data.eval)):
                read.task.check_answers(checked, adapter.placement)


def task_on(base: Base, task: RunTask) -> TaskName:
    """Return what a base that is loaded already does for ``task``.

    Raises:
        ConfigError: the task is to be for something else.
    """
    found = base.heads[task.name].spec.task if task.name in base.heads else base.task
    if task.task in (None, found):
        return found
    if not task.name:
        raise ConfigError(
            f'the task is {task.task}, but the base was loaded for {found}; load it with task="{task.task}"'
        )
    raise ConfigError(
        f"task '{task.name}' is {task.task}, but the base was loaded for {found}; load it with"
        f' heads=[HeadSpec("{task.name}", "{task.task}", labels)], or let the run load it'
    )


def check_heads(base: Base, tasks: Sequence[RunTask], rows: Sequence[TaskRows]) -> None:
    """Check that a base that was loaded already has a head for each of several tasks.

    Raises:
        ConfigError: two tasks would share one head, or a head tells other classes apart.
    """
    headless = [
        task.name
        for task, read in zip(tasks, rows, strict=True)
        if task.name not in base.heads and isinstance(read.task, HeadTask)
    ]
    if len(headless) > 1:
        raise ConfigError(
            f"tasks {', '.join(headless)} would share the one head that the base was loaded with; load it with a head"
            " for each: load_base(..., heads=[HeadSpec(name, task, labels)]), or let the run load it"
        )
    for task, read in zip(tasks, rows, strict=True):
        known = base.labels_of(task.name)
        if isinstance(read.task, HeadTask) and not set(read.labels) <= set(known):
            raise ConfigError(
                f"task '{task.name}' has rows of {', '.join(read.labels)}, and its head in the base tells"
                f" {', '.join(known)} apart; load the base with a head for these rows, or let the run load it"
            )


def learned_tasks(base: Base, rows: Sequence[TaskRows], data: Sequence[RunRows]) -> tuple[LearnedTask, ...]:
    """Return what an adapter has to remember of each named task."""
    found = []
    for read, encoded in zip(rows, data, strict=True):
        head = base.heads.get(encoded.name)
        found.append(
            LearnedTask(
                name=encoded.name,
                task=read.task.name,
                labels=base.labels_of(encoded.name) if isinstance(read.task, HeadTask) else (),
                head=None if head is None else head.path,
                parameters=base.fingerprint.parameters if head is None else head.parameters,
                data_format=data_format(read.options, encoded.examples, base, encoded.name),
            )
        )
    return tuple(found)
