"""Several adapters that rows go through one after the other, as one folder.

``petune_stack.json`` names them in order; each lies, whole, in the sub-folder of its name.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petune.adapted_model import AdaptedModel
from petune.backbone.task_names import TaskName
from petune.checkpoint import folder as adapter_folder
from petune.checkpoint import made_for, manifest
from petune.checkpoint.durable import write_text
from petune.checkpoint.named_tasks import require_choice
from petune.errors import AdapterFormatError, ConfigError
from petune.stacking import require_stackable

FILE_NAME = manifest.STACK_FILE_NAME
FORMAT = 1
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@final
class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=f"^{_NAME}$")
    """What the adapter is called, and its sub-folder."""

    digest: str
    """Its tensors' digest, as in its own ``petune.json``."""


@final
class _Stack(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: int = Field(ge=1)
    """Version of this layout."""

    adapters: tuple[_Entry, ...] = Field(min_length=1)
    """The adapters, in the order in which rows go through them."""


@final
@dataclass(frozen=True, slots=True)
class Member:
    """One adapter to load: what it will be called, and its folder."""

    name: str
    folder: Path


def save_stack(model: AdaptedModel, folder: str | os.PathLike[str], names: Sequence[str] | None = None) -> Path:
    """Write several attached adapters, and the order in which rows go through them, as one folder.

    Args:
        model: the base with the adapters attached.
        folder: where to write; each adapter gets the sub-folder of its name.
        names: the adapters, in order; by default the active ones.

    Returns:
        The folder.

    Raises:
        ConfigError: there are none, one is not attached, or its name is no name of a folder.
        OutputFolderError, ResourceError: it cannot be written.
    """
    folder, names = Path(folder), tuple(model.active if names is None else names)
    if not names:
        raise ConfigError("no adapter is active: there is nothing to save; name the adapters of the stack")
    require_stackable([model.adapter(name) for name in names])
    for name in names:
        if re.fullmatch(_NAME, name) is None:
            raise ConfigError(
                f"'{name}' cannot be the name of a folder; use letters, digits, '.', '_' and '-', 64 at most"
            )
    entries = []
    for name in names:
        adapter_folder.save_adapter(model, folder / name, name=name)
        content = manifest.read_manifest(folder / name)
        assert content is not None, "a saved adapter has a manifest"
        entries.append(_Entry(name=name, digest=content.digest))
    stack = _Stack(format=FORMAT, adapters=tuple(entries))
    write_text(folder / FILE_NAME, json.dumps(stack.model_dump(mode="json"), indent=2) + "\n")
    return folder


def folders(adapter: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[str | os.PathLike[str], ...]:
    """Return the one folder that ``adapter`` names, or all of several."""
    return (adapter,) if isinstance(adapter, str | os.PathLike) else tuple(adapter)


def members(folders: Sequence[str | os.PathLike[str]]) -> tuple[Member, ...]:
    """Return the adapters that ``folders`` mean, in order: those of a stack, and the folder itself where it is none.

    A single adapter is called ``default``; several are called as in their stack, or as their folders are.

    Raises:
        AdapterFormatError: a stack is malformed, or an adapter in it is not the one that was saved.
    """
    found: list[tuple[str, Path]] = []
    for path in map(Path, folders):
        if (path / FILE_NAME).is_file():
            found += [(entry.name, path / entry.name) for entry in _read(path).adapters]
        else:
            found.append((path.resolve().name, path))
    if len(found) == 1:
        return (Member("default", found[0][1]),)
    taken: dict[str, Path] = {}
    for name, path in found:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken[unique] = path
    return tuple(Member(name, path) for name, path in taken.items())


def task_name_for(member: Member, stack: Sequence[Member], task_name: str | None) -> str | None:
    """Return ``task_name`` where it is a matter of this adapter: it has named tasks, or no other in the stack has."""
    named = [other for other in stack if made_for.tasks_of(other.folder)]
    return task_name if not named or member in named else None


def require_choices(stack: Sequence[Member], task_name: str | None) -> None:
    """Check that one of an adapter's tasks is named, where it has several heads.

    Raises:
        AdapterFormatError: a folder is no adapter, or malformed.
        ConfigError: none is named.
    """
    for member in stack:
        require_choice(member.folder, made_for.tasks_of(member.folder), task_name)


def task_of(stack: Sequence[Member], task_name: str | None = None) -> tuple[TaskName | None, tuple[str, ...]]:
    """Return the task that the adapters were trained for, and the classes of their head.

    Args:
        stack: the adapters.
        task_name: which of their tasks, where they were trained for several.

    Raises:
        AdapterFormatError: a folder is no adapter, or malformed.
        ConfigError: they were trained for different tasks or classes, or for none of that name.
    """
    tasks = {member.name: made_for.task_of(member.folder, task_name_for(member, stack, task_name)) for member in stack}
    known = {name: found for name, found in tasks.items() if found[0] is not None}
    _require_one(known, "trained for", lambda found: f"{found[0]} ({', '.join(found[1])})" if found[1] else found[0])
    return next(iter(known.values()), (None, ()))


def base_of(stack: Sequence[Member]) -> tuple[str, str | None]:
    """Return the name and revision of the base that the adapters were made for.

    Raises:
        AdapterFormatError: a folder names no base.
        ConfigError: they name different bases.
    """
    bases = {member.name: made_for.base_of(member.folder) for member in stack}
    _require_one(bases, "made for", lambda found: found[0] if found[1] is None else f"{found[0]} at {found[1]}")
    return next(iter(bases.values()))


def _require_one(found: dict[str, Any], verb: str, shown: Callable[[Any], str | None]) -> None:
    for (first, wanted), (name, value) in pairwise(found.items()):
        if value != wanted:
            raise ConfigError(
                f"'{first}' was {verb} {shown(wanted)}, '{name}' for {shown(value)}; rows cannot go through both. Use"
                " one at a time, or say which base with --model"
            )


def _read(folder: Path) -> _Stack:
    """Return what the stack's file says, each of its adapters compared with what is there."""
    path = folder / FILE_NAME
    content = manifest.read_json(path)
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise AdapterFormatError(
            f"{path} has format {content['format']}, this petune reads up to {FORMAT}; upgrade petune"
        )
    try:
        stack = _Stack.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AdapterFormatError(f"{path}: '{where}': {first['msg']}; restore it from a copy") from error
    names = [entry.name for entry in stack.adapters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AdapterFormatError(f"{path} names '{twice}' twice; restore it from a copy")
    for entry in stack.adapters:
        own = manifest.read_manifest(folder / entry.name)
        if own is None:
            raise AdapterFormatError(
                f"{folder} lost its adapter '{entry.name}': {folder / entry.name} has no {manifest.FILE_NAME}; restore"
                " it from a copy"
            )
        if own.digest != entry.digest:
            raise AdapterFormatError(
                f"{folder / entry.name} is not the adapter that was saved with this stack ({own.digest[:19]}...,"
                f" {FILE_NAME} says {entry.digest[:19]}...); restore both from one copy"
            )
    return stack
