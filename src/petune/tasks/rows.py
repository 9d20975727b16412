"""The rows of a run, read and checked for its task before any weights load."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from transformers import PreTrainedConfig

from petune.backbone.task_names import TaskName
from petune.data.contents import Pair
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


@final
@dataclass(frozen=True, slots=True)
class Draft:
    """Rows that are sound in themselves, before it is known what they are for where nobody said."""

    options: DataOptions
    data: CheckedData
    task: Task | None
    seed: int

    def settled(self, configuration: Callable[[], tuple[PreTrainedConfig, str]]) -> TaskRows:
        """Return the rows for their task, chosen by the model and by the rows where none was named.

        Args:
            configuration: returns the model's configuration and its name; called only where the task has to be chosen.

        Raises:
            DataError: a row cannot be used, or the rows are not of a layout that the task learns from.
            ConfigError: the model learns nothing from such rows.
            BaseModelError: the model cannot be had, or cannot be loaded for any task.
        """
        if self.task is not None:
            return TaskRows(self.task, self.options, self.data, self.task.labels(self.data))
        config, name = configuration()
        assert self.data.train is not None
        task = for_rows(config, self.data.train.layout.name, name)
        options = task.reading(self.options)
        data = self.data if options == self.options else check_files(options, seed=self.seed)
        _check_layouts(task, data)
        return TaskRows(task, options, data, task.labels(data))


def read_rows_for(options: DataOptions, *, task: TaskName | None, seed: int) -> Draft:
    """Read and check every row; no model is looked at.

    Args:
        options: which files, and how to read them.
        task: what they are for; None to choose by the model and by the rows.
        seed: seed of samples and of the validation split.

    Raises:
        DataError: a row cannot be used, or the rows are not of a layout that the task learns from.
    """
    known = None if task is None else get(task)
    reading = options if known is None else known.reading(options)
    data = check_files(reading, seed=seed)
    if known is not None:
        _check_layouts(known, data)
    return Draft(reading, data, known, seed)


def _check_layouts(task: Task, data: CheckedData) -> None:
    for rows in (data.train, data.eval):
        if rows is not None:
            task.check_layout(rows.layout.name, rows.rows.source)
            task.check_suffixes((c.suffix for c in rows.contents if isinstance(c, Pair)), rows.rows.source)
