"""Which of its heads a model answers with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from petune.adapted_model import AdaptedModel
from petune.backbone.task_names import TaskName
from petune.errors import ConfigError, nearest
from petune.evaluation.runner import Runner, WithHead


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
    tasks = {task.name: task for task in adapters[-1].tasks} if adapters else {}
    if task_name is None and not tasks:
        return Asked(model, base.task, base.labels, adapters[-1].data_format if adapters else {})
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
