"""The contract of a layout: how one method is spelled in the folders of AdapterHub's library, ``adapters``.

Such a folder is read, never written. Its config goes through the strict table of each layout: a field that is unknown,
or asks for what petune does not compute, is refused by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.errors import AdapterFormatError, nearest

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter.safetensors"

Rule = Callable[[Any], bool]
"""Says whether a field's value is one we can do without."""


@final
@dataclass(frozen=True, slots=True)
class HubAdapter:
    """What the two files of an adapter hold.

    Attributes:
        name: what the library called it.
        config: the method's settings.
        tensors: by their names below the headless model; copies of the same ones are left out.
    """

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class HubLayout(ABC):
    """How one method is spelled there."""

    architecture: str | None
    """What the config calls the method."""

    followed: tuple[str, ...] = ()
    """Fields that say what the method is to do."""

    neutral: Mapping[str, Rule] = {}
    """Other fields, and which of their values leave a trained adapter as petune computes it."""

    def require_known(self, config: Mapping[str, Any]) -> None:
        """Make sure that ``config`` asks for nothing that petune lacks.

        Raises:
            AdapterFormatError: it does, or a field is missing.
        """
        for field, value in config.items():
            if field in self.followed or field == "architecture":
                continue
            if field not in self.neutral:
                known = (*self.followed, *self.neutral)
                raise AdapterFormatError(
                    f"{CONFIG_FILE}: 'config.{field}' is not known to this petune.{nearest(field, known)} It was read"
                    " from a newer version of the library, or is misspelled"
                )
            if not self.neutral[field](value):
                raise AdapterFormatError(f"{CONFIG_FILE}: config.{field}={value!r} is nothing that petune computes")
        missing = next((field for field in self.followed if field not in config), None)
        if missing is not None:
            raise AdapterFormatError(
                f"{CONFIG_FILE}: 'config.{missing}' is missing; load the folder with adapters 1.x and save it again"
            )

    @abstractmethod
    def options(self, found: HubAdapter, base: Base) -> dict[str, Any]:
        """Return our settings for what was ``found``, on ``base``.

        Raises:
            AdapterFormatError: it asks for something petune's method does not do.
        """

    @abstractmethod
    def to_own(self, found: HubAdapter, adapter: Adapter, base: Base) -> dict[str, Tensor]:
        """Return the tensors of ``adapter``, a fresh one with those settings.

        Raises:
            AdapterFormatError: a tensor is of a kind or shape this method does not have.
        """


def below_head(path: str, base: Base) -> str:
    """Return a module's path below the headless model, which is what names in AdapterHub's files have in common."""
    return path.removeprefix(f"{base.model.base_model_prefix}.")


def flag(config: Mapping[str, Any], field: str) -> bool:
    """Return a field that is true or false.

    Raises:
        AdapterFormatError: it is neither.
    """
    value = config[field]
    if not isinstance(value, bool):
        raise AdapterFormatError(f"{CONFIG_FILE}: config.{field} is {value!r}, expected true or false")
    return value


def whole_number(config: Mapping[str, Any], field: str, *, most: int) -> int:
    """Return a field that is a whole number from 1 to ``most``.

    Raises:
        AdapterFormatError: it is none.
    """
    value = config[field]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise AdapterFormatError(f"{CONFIG_FILE}: config.{field} is {value!r}, expected a number from 1 to {most:,}")
    return value


def layers_left_out(config: Mapping[str, Any], base: Base) -> frozenset[int]:
    """Return the numbers of the blocks that have nothing.

    Raises:
        AdapterFormatError: they are no list of block numbers of this base.
    """
    value = config["leave_out"] or []
    blocks = range(base.structure.num_blocks)
    if not isinstance(value, list) or any(isinstance(n, bool) or n not in blocks for n in value):
        raise AdapterFormatError(
            f"{CONFIG_FILE}: config.leave_out is {value!r}, expected a list of block numbers; this base has blocks 0 to"
            f" {len(blocks) - 1}"
        )
    return frozenset(value)


def unexpected(name: str) -> AdapterFormatError:
    """Return the error for a tensor that the config does not speak of."""
    return AdapterFormatError(
        f"{WEIGHTS_FILE}: tensor '{name}' is none that the settings in {CONFIG_FILE} speak of on this base; restore"
        " both from one copy, and load the base that they name"
    )


def switched_off(value: Any) -> bool:
    """Say whether a field is switched off."""
    return not value


def whatever(value: Any) -> bool:
    """Say that any value will do: the field is about training or its start."""
    return True
