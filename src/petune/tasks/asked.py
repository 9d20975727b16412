"""Which of its heads a model answers with."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter
from petune.backbone.task_names import TaskName
from petune.errors import ConfigError, nearest
from petune.evaluation.runner import Runner, WithHead

logger = logging.getLogger("petune")


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """The model with the head that answers, and what that head is for."""

    runner: Runner
    task: TaskName
    labels: tuple[str, ...]
    data_format: Mapping[str, Any]
    """How rows became text when it was trained; empty where nothing is known of that."""


def asked_for(model: AdaptedModel, task_name: str | None) -> Asked:
    """Return the model for one of the tasks that its adapter was trained for, or as it is where these have no names.

    Raises:
        ConfigError: the adapter was trained for several tasks and none of them is named, or for none of that name.
    """
    base = model.base
    adapters = [model.adapter(name) for name in model.active]
    tasks = {task.name: task for adapter in adapters for task in adapter.tasks}
    if task_name is None and not tasks:
        return Asked(model, base.task, base.labels, _data_format(adapters))
    if not tasks:
        raise ConfigError(f"the model is for one task, which has no name; leave task_name='{task_name}' out")
    if task_name not in tasks:
        which = "" if task_name is None else f", not for '{task_name}'"
        raise ConfigError(
            f"the adapter was trained for {', '.join(tasks)}{which}; say with task_name (--task-name) which one the"
            f" rows are of.{nearest(task_name or '', tasks)}"
        )
    task = tasks[task_name]
    runner = WithHead(model, base.heads[task.name].model) if task.head is not None else model
    return Asked(runner, task.task, task.labels, task.data_format)


def _data_format(active: Sequence[Adapter]) -> dict[str, Any]:
    """Return how rows are written: as the last adapter that remembers it was trained."""
    remembered = [adapter for adapter in active if adapter.data_format]
    if not remembered:
        return {}
    *others, last = remembered
    for other in others:
        if other.data_format != last.data_format:
            logger.warning(
                "rows are written as '%s' was trained; '%s' was trained on rows written differently",
                last.name,
                other.name,
            )
    return dict(last.data_format)
