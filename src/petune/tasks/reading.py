"""How rows that are not trained on are read: as training read its own, unless something else is asked for."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from petune.adapted_model import AdaptedModel
from petune.data.examples import ExampleSet
from petune.data.loading import load_examples
from petune.data.options import FORMAT_FIELDS, DataOptions
from petune.errors import AdapterFormatError, ConfigError
from petune.methods.config import explain
from petune.tasks.asked import Asked
from petune.tasks.task import Task

OptionsT = TypeVar("OptionsT", bound=BaseModel)


def read_options(kind: type[OptionsT], options: Mapping[str, Any]) -> OptionsT:
    """Return ``options`` as settings of this kind.

    Raises:
        ConfigError: one is unknown or impossible.
    """
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise ConfigError(explain(error, kind)) from error


def split_options(
    asked: Asked, data: str | os.PathLike[str], options: Mapping[str, Any], *, leave_out: Sequence[str]
) -> tuple[DataOptions, dict[str, Any]]:
    """Return the settings of reading, those of training where none are given, and the other settings.

    Args:
        asked: the model, and how its rows were read.
        data: the rows.
        options: what is asked for.
        leave_out: settings that would do nothing.

    Raises:
        ConfigError: a setting is impossible, or would do nothing.
        AdapterFormatError: an adapter remembers more than how rows become text.
    """
    refuse_idle(options, leave_out)
    foreign = [name for name in asked.data_format if name not in (*FORMAT_FIELDS, "labels")]
    if foreign:  # a file would say what is read, or how much is written
        raise AdapterFormatError(
            f"petune.json: data_format has {', '.join(foreign)}, and may have {', '.join(FORMAT_FIELDS)} and labels:"
            " how rows become text; remove the others, or get the adapter anew"
        )
    merged = {**asked.data_format, **options, "data": os.fspath(data)}
    reading = {k: v for k, v in merged.items() if k in DataOptions.model_fields}
    rest = {k: v for k, v in merged.items() if k not in DataOptions.model_fields}
    return read_options(DataOptions, reading), rest


def examples_for(model: AdaptedModel, task: Task, options: DataOptions, *, require_target: bool = True) -> ExampleSet:
    """Return the rows, which must be of a layout that ``task`` is measured on.

    Raises:
        DataError: they are not, or one cannot be used.
    """
    examples = load_examples(task.reading(options), model.tokenizer, require_target=require_target)
    task.check_layout(examples.layout, examples.source)
    task.check_suffixes((example.suffix for example in examples), examples.source)
    return examples


def refuse_idle(options: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check that none of ``names``, which would do nothing, is among ``options``.

    Raises:
        ConfigError: one is.
    """
    idle = [name for name in names if name in options]
    if idle:
        raise ConfigError(f"{', '.join(idle)} would do nothing here; leave it out")
