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

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

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

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """Say whether PEFT can express ``adapter``; if not, it is written under our own names."""
        return True

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
    def from_file(self, tensors: Mapping[str, Tensor], structure: Structure) -> dict[str, Tensor]:
        """Return our tensors for PEFT's.

        Raises:
            AdapterFormatError: a tensor is of a kind or shape this method does not have.
        """


def neutral(value: Any) -> bool:
    """Say whether a field is switched off."""
    return not value
