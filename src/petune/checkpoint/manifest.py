"""``petune.json``: what an adapter folder holds, for which base, and the digests that prove both.

HF PEFT ignores the file; petune refuses a folder whose contents do not match it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from petune.adapter import LearnedTask
from petune.backbone.task_names import TaskName
from petune.errors import AdapterFormatError

FILE_NAME = "petune.json"
STACK_FILE_NAME = "petune_stack.json"
"""The file that makes a folder one of several adapters."""
FORMAT = 1


@final
class BaseIdentity(BaseModel):
    """The base an adapter was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Hub id, local path, or ``demo``."""

    revision: str | None
    """Commit or tag on the hub, where one was given."""

    fingerprint: dict[str, Any]
    """The base's fingerprint: architecture, weights, tokenizer, and readable facts."""


@final
class Manifest(BaseModel):
    """The contents of ``petune.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: int = Field(default=FORMAT, ge=1)
    """Version of this layout."""

    method: str
    """Name of the method in petune's registry."""

    config: dict[str, Any]
    """The settings of the method in the form that the folder holds."""

    trained_config: dict[str, Any] | None = None
    """The settings it was trained with, where training needed more than the folder holds (an encoder, say)."""

    base: BaseIdentity
    """The base the adapter belongs to."""

    task: TaskName = "causal_lm"
    """What the base was trained for."""

    labels: tuple[str, ...] = ()
    """Names of the classes of the task's head, in the order of its outputs; empty where it has none."""

    tasks: tuple[LearnedTask, ...] = ()
    """The tasks that were trained for at once, where they were named; the ``task`` and ``labels`` above are then those
    of the head that the base was loaded with."""

    digest: str
    """SHA-256 over the names, shapes and values of the adapter's tensors."""

    files: dict[str, str]
    """SHA-256 of each file the folder was saved with, by name."""

    versions: dict[str, str]
    """Versions of petune and the libraries that wrote the folder."""

    data_format: dict[str, Any] = Field(default_factory=dict)
    """How rows became text: layout, columns, templates; evaluation and prediction use the same."""

    training: dict[str, Any] | None = None
    """Summary of the training run: data, steps, rate, losses, time."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return ``sha256:<hex>`` over names, shapes, precisions and bytes of ``tensors``, whatever their order."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        total.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{total.hexdigest()}"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that the JSON file ``path`` holds.

    Raises:
        AdapterFormatError: the file is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AdapterFormatError(f"{path.parent} has no {path.name}; give the folder of an adapter") from error
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterFormatError(f"{path} is not readable JSON ({error}); restore it from a copy") from error
    if not isinstance(value, dict):
        raise AdapterFormatError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def listed_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the files that the folder's manifest lists, as it stands; none where there is no manifest."""
    try:
        files = read_json(folder / FILE_NAME).get("files")
    except AdapterFormatError:
        return ()
    return tuple(name for name in files if Path(name).name == name) if isinstance(files, dict) else ()


def read_manifest(folder: Path) -> Manifest | None:
    """Return the folder's manifest, or None where it has none; every file it lists must be as it was written.

    Raises:
        AdapterFormatError: the manifest is malformed, from a newer petune, or a listed file was lost or changed.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    content = read_json(path)
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise AdapterFormatError(
            f"{path} has format {content['format']}, this petune reads up to {FORMAT}; upgrade petune"
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise AdapterFormatError(f"{path}: '{where}': {first['msg']}; restore it from a copy") from error
    for name, expected in manifest.files.items():
        file = folder / name
        if Path(name).name != name:  # the files may be links, as in the hub's cache: what they hold is compared
            raise AdapterFormatError(f"{path} lists '{name}', which is not a file of this folder")
        if not file.is_file():
            raise AdapterFormatError(f"{folder} lost its file {name}; restore it from a copy")
        actual = file_digest(file)
        if actual != expected:
            raise AdapterFormatError(
                f"{file} is not the file that was saved (SHA-256 {actual[:12]}..., expected {expected[:12]}...);"
                " restore it from a copy"
            )
    return manifest
