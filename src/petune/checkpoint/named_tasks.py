"""Folders of adapters that were trained for several tasks at once, each of which has a name and perhaps a head."""

import os
from collections.abc import Mapping, Sequence

from torch import Tensor

from petune.adapter import LearnedTask
from petune.errors import ConfigError, nearest


def choose_task(folder: str | os.PathLike[str], tasks: Sequence[LearnedTask], name: str) -> LearnedTask:
    """Return the one of ``tasks``, those of the adapter in ``folder``, that is called ``name``.

    Raises:
        ConfigError: there is none.
    """
    names = [task.name for task in tasks]
    if not names:
        raise ConfigError(f"{folder} was trained for one task, which has no name; leave --task-name {name} out")
    if name not in names:
        raise ConfigError(f"{folder} was trained for {', '.join(names)}, not for '{name}'.{nearest(name, names)}")
    return tasks[names.index(name)]


def require_choice(folder: str | os.PathLike[str], tasks: Sequence[LearnedTask], name: str | None) -> None:
    """Check that one of ``tasks`` is named where a model has one head, and they have several.

    Raises:
        ConfigError: none is.
    """
    if name is None and any(task.head is not None for task in tasks):
        names = ", ".join(task.name for task in tasks)
        raise ConfigError(f"{folder} was trained for {names}; say with task_name (--task-name) which one is meant")


def of_task(tensors: Mapping[str, Tensor], names: Mapping[str, str], head: str | None) -> dict[str, Tensor]:
    """Return the tensors for one task out of those for several; what is not among them is left out.

    Args:
        tensors: those of the folder, by name.
        names: what each tensor is to be called, and the name that it has in a folder for one task.
        head: path of the task's own head; None where it has none.
    """
    return {name: tensors[place] for name, plain in names.items() if (place := _place(plain, tensors, head)) in tensors}


def _place(name: str, tensors: Mapping[str, Tensor], head: str | None) -> str:
    """Return the name under which a tensor stands among those for several tasks: that of a head's own, if it is one."""
    own = f"{head}.{name}"
    return own if own in tensors else name
