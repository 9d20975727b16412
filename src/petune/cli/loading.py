"""The flags by which commands choose a base model and an adapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from petune.backbone.quantization_names import Quantization
from petune.backbone.task_names import TaskName
from petune.cli.flags import REPEATED, values
from petune.errors import ConfigError, OutputFolderError
from petune.methods.config import explain

if TYPE_CHECKING:
    from petune.adapted_model import AdaptedModel

OptionsT = TypeVar("OptionsT", bound=BaseModel)


class LoadOptions(BaseModel):
    """Which model a command uses."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    adapter: Annotated[tuple[str, ...], REPEATED] = ()
    """Adapter folder: petune's, HF PEFT's, AdapterHub's, or a stack; of several, rows go through each in this order."""

    model: str | None = None
    """Base model: a hub id, a local folder, a .gguf file, or `demo` (default: the one the adapter names)."""

    task: TaskName | None = None
    """What the base is loaded for (default: what the adapter was trained for, else what its weights were saved for)."""

    task_name: str | None = None
    """Of an adapter that was trained for several tasks, the one to use it for."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    dtype: str = "auto"
    """Precision of the base: bfloat16, float16, float32, or auto (bfloat16 where the machine computes it fast)."""

    quantization: Quantization | None = None
    """Keep weights as blocks: gguf (those of the GGUF file, the same numbers), 8bit or 4bit (rounded to them)."""

    device: str = "auto"
    """Where to run: cpu, cuda, or auto."""

    allow_base_mismatch: bool = False
    """Use the adapter even on a base it was not made for."""

    trust_remote_code: bool = False
    """Let the base's repository run its own code."""


def load_model(flags: Mapping[str, Any]) -> "AdaptedModel":
    """Return the model that the flags name.

    Raises:
        ConfigError: neither an adapter nor a base is named, or not which of an adapter's tasks it is for.
    """
    from petune.api import load
    from petune.checkpoint import stack

    options = checked(LoadOptions, flags)
    if not options.adapter and options.model is None:
        raise ConfigError("no model: give --adapter FOLDER, --model NAME (such as --model demo), or both")
    stack.require_choices(stack.members(options.adapter), options.task_name)
    return load(
        options.adapter or None,
        base=options.model,
        task=options.task,
        dtype=options.dtype,
        quantization=options.quantization,
        device=options.device,
        revision=options.revision,
        allow_base_mismatch=options.allow_base_mismatch,
        trust_remote_code=options.trust_remote_code,
        task_name=options.task_name,
    )


def split(given: Mapping[str, Any], *models: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the flags that were given, one mapping for each of ``models``; the first that knows a flag has it."""
    flags = values(given, *models)
    return [{name: flags.pop(name) for name in list(flags) if name in model.model_fields} for model in models]


def checked(model: type[OptionsT], flags: Mapping[str, Any]) -> OptionsT:
    """Return the options that ``flags`` set, so that a wrong one is told before a base model loads.

    Raises:
        ConfigError: a value is out of range or of the wrong kind.
    """
    try:
        return model.model_validate(dict(flags))
    except ValidationError as error:
        raise ConfigError(explain(error, model)) from error


def check_inputs(data: str, metrics: Sequence[str] = ()) -> None:
    """Read every row and find every metric, so that what is wrong with them is told before a base model loads.

    Raises:
        PetuneError: rows cannot be read, or a metric is unknown.
    """
    from petune.data.reading import read_rows
    from petune.evaluation.metrics import resolve_metric

    for name in metrics:
        resolve_metric(name)
    read_rows(data)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Refuse to write over a file unless asked to.

    Raises:
        OutputFolderError: the file exists, and ``overwrite`` is false.
    """
    if path.is_dir():
        raise OutputFolderError(f"{path} is a folder; give a file with --output")
    if path.exists() and not overwrite:
        raise OutputFolderError(f"{path} exists already; give another --output, or --overwrite")
