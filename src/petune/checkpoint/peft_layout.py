"""The contract of a layout: how one method is spelled in HF PEFT's files.

PEFT's configs are read by the strict tables of each layout, never handed to code: a field we do not support is refused
unless it has its neutral value.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.structure import Structure
from petune.errors import AdapterFormatError, nearest

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
PROMPT_PREFIX = "base_model."

# Fields that say where an adapter came from or is to be used; they change no output. `auto_mapping` and
# `megatron_core` name code to import: they are never followed.
DESCRIPTIVE = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
}


Rule = Callable[[Any], bool]
"""Says whether a field's value is one we can do without."""


class Layout(ABC):
    """How one method is spelled in PEFT's files."""

    peft_type: str

    prefix: str = PREFIX
    """What stands before the path of a module that is saved whole."""

    besides: frozenset[str] = frozenset({"modules_to_save"})
    """PEFT's fields of what is learned beside the method: all types but one have modules that are learned whole."""

    followed: tuple[str, ...] = ()
    """PEFT's fields that say what the method is to do."""

    neutral: Mapping[str, Rule] = {}
    """PEFT's other fields, and which of their values leave a trained adapter as it is."""

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """Say whether PEFT can express ``adapter``; if not, it is written under our own names."""
        return True

    def refusal(self, config: Mapping[str, Any]) -> str | None:
        """Return why petune cannot do what PEFT's ``config`` asks for; None where it can."""
        for field, value in config.items():
            if field in DESCRIPTIVE or field in self.followed or field in self.besides:
                continue
            if field not in self.neutral:
                known = (*self.followed, *self.neutral, *DESCRIPTIVE, *self.besides)
                return f"'{field}' is not known to this petune.{nearest(field, known)}"
            if not self.neutral[field](value):
                return f"{field}={value!r} is not supported by petune's {self.peft_type}"
        return None

    def require_known(self, config: Mapping[str, Any]) -> None:
        """Make sure that a folder's ``config`` asks for nothing that petune lacks.

        Raises:
            AdapterFormatError: it does.
        """
        if refusal := self.refusal(config):
            raise AdapterFormatError(f"{CONFIG_FILE}: {refusal}")

    @abstractmethod
    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return the method's fields of ``adapter_config.json``."""

    @abstractmethod
    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return our settings for PEFT's ``config`` on a base of this ``structure``.

        Raises:
            AdapterFormatError: the config asks for something petune's method does not do.
        """

    @abstractmethod
    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return the adapter's tensors as PEFT names and shapes them."""

    @abstractmethod
    def from_file(self, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return our tensors for PEFT's, which are to be those of ``adapter``.

        Raises:
            AdapterFormatError: a tensor is of a kind or shape this method does not have.
        """


def switched_off(value: Any) -> bool:
    """Say whether a field is switched off."""
    return not value
