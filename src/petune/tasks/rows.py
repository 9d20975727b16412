"""The rows of a run, read and checked for its task before any weights load."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from transformers import PreTrainedConfig

from petune.backbone.task_names import TaskName
from petune.data.loading import CheckedData, check_files
from petune.data.options import DataOptions
from petune.tasks.registry import for_rows, get
from petune.tasks.task import Task


@final
@dataclass(frozen=True, slots=True)
class TaskRows:
    """Checked rows, and what they are for."""

    task: Task
    options: DataOptions
    """How the rows were read, with the task's own templates."""
    data: CheckedData
    labels: tuple[str, ...]
    """The classes that the training rows name; empty for a task without."""


def read_rows_for(
    options: DataOptions,
    *,
    task: TaskName | None,
    configuration: Callable[[], tuple[PreTrainedConfig, str]],
    seed: int,
) -> TaskRows:
    """Read and check every row.

    Args:
        options: which files, and how to read them.
        task: what they are for; None to choose by the model and by the rows.
        configuration: returns the model's configuration and its name; called only where the task has to be chosen.
        seed: seed of samples and of the validation split.

    Raises:
        DataError: a row cannot be used, or the rows are not of a layout that the task learns from.
        ConfigError: the model learns nothing from such rows.
        BaseModelError: the model cannot be had, or cannot be loaded for any task.
    """
    known = None if task is None else get(task)
    reading = options if known is None else known.reading(options)
    data = check_files(reading, seed=seed)
    assert data.train is not None
    if known is None:
        config, name = configuration()
        known = for_rows(config, data.train.layout.name, name)
        reading = known.reading(options)
        data = data if reading == options else check_files(reading, seed=seed)
        assert data.train is not None
    for rows in (data.train, data.eval):
        if rows is not None:
            known.check_layout(rows.layout.name, rows.rows.source)
    return TaskRows(known, reading, data, known.labels(data))
