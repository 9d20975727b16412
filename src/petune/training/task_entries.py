"""The tasks of one run: what a recipe says of each, and what follows from it and from the run's own keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

from pydantic import Field, ValidationError, model_validator

from petune.backbone.task_names import TaskName
from petune.data.options import DataOptions
from petune.methods.config import explain

_VALIDATION = ("eval_data", "validation_split")


@final
class TaskEntry(DataOptions):
    """One of several tasks of a run. What an entry leaves out is as the run has it."""

    name: str = Field(pattern=r"^[\w-]+$", max_length=64)
    """What the task is called in metrics, in the adapter and by `--task-name`: letters, digits, `_` and `-`."""

    task: TaskName | None = None
    """What the base is trained for on these rows."""

    weight: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Share of the optimiser steps, in proportion to the other tasks' weights (default: by the number of rows, so
    that each row is seen once in an epoch)."""

    metrics: tuple[str, ...] | None = None
    """Metrics measured at each evaluation of this task besides the loss."""

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if self.data is None:
            raise ValueError("there is no data; name a file or a hub data set id")
        return self

    def keys(self) -> dict[str, Any]:
        """Return what the entry itself says, as YAML and JSON can hold it."""
        return self.model_dump(mode="json", exclude_unset=True)


@final
@dataclass(frozen=True, slots=True)
class RunTask:
    """One task of a run, everything settled; a run that names no tasks has one without a name."""

    name: str
    data: DataOptions
    task: TaskName | None
    metrics: tuple[str, ...]
    weight: float | None = None

    @property
    def has_validation(self) -> bool:
        """Whether validation rows are asked for."""
        return any(getattr(self.data, name) is not None for name in _VALIDATION)


def settled(entry: TaskEntry, data: DataOptions, task: TaskName | None, metrics: tuple[str, ...]) -> RunTask:
    """Return the task of an entry, with the run's own keys where it says nothing.

    Args:
        entry: what the recipe says of the task.
        data: the run's options of reading.
        task: what the run is for.
        metrics: the run's metrics.

    Raises:
        ValueError: the two together make no sense.
    """
    known = DataOptions.model_fields
    own = {name: getattr(entry, name) for name in entry.model_fields_set if name in known}
    # an entry with validation rows of its own wants none of the run's
    left_out = _VALIDATION if any(own.get(name) is not None for name in _VALIDATION) else ()
    run = {name: getattr(data, name) for name in known if name not in left_out}
    try:
        reading = DataOptions.model_validate({**run, **own})
    except ValidationError as error:
        raise ValueError(f"task '{entry.name}': {explain(error, DataOptions)}") from error
    return RunTask(
        name=entry.name,
        data=reading,
        task=entry.task or task,
        metrics=metrics if entry.metrics is None else entry.metrics,
        weight=entry.weight,
    )


def read_entries(value: Any) -> tuple[TaskEntry, ...]:
    """Return the entries that a recipe's list of mappings describes.

    Raises:
        ValueError: it is no such list, an entry has an unknown key or a bad value, or two entries do not go together.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise ValueError(
            f"tasks is {value!r}; give a list of entries, such as [{{name: sentiment, data: reviews.jsonl}}]"
        )
    entries = tuple(_read(number, item) for number, item in enumerate(value, 1))
    names = [entry.name for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two tasks are called '{twice}'; give each a name of its own")
    weighted = [entry.name for entry in entries if entry.weight is not None]
    if weighted and len(weighted) < len(entries):
        without = ", ".join(f"'{name}'" for name in names if name not in weighted)
        raise ValueError(f"{without} has no weight, and '{weighted[0]}' has one; give all tasks a weight, or none")
    return entries


def _read(number: int, item: Any) -> TaskEntry:
    if isinstance(item, TaskEntry):
        return item
    if not isinstance(item, Mapping):
        raise ValueError(f"task {number} is {item!r}; expected keys and values, such as name and data")
    called = f"task '{item['name']}'" if isinstance(item.get("name"), str) else f"task {number}"
    try:
        return TaskEntry.model_validate(dict(item))
    except ValidationError as error:
        raise ValueError(f"{called}: {explain(error, TaskEntry)}") from error
