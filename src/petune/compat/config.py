"""What the config classes of HF PEFT share: checked fields, files, and how a fresh adapter is described.

Which fields and values can be followed is told by the tables of :mod:`petune.checkpoint.peft`, which read the same
fields from folders; what matters for a fresh adapter alone, its start, is told by the class of each method.
"""

import copy
import json
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from petune.backbone.structure import Structure
from petune.checkpoint.durable import write_text
from petune.checkpoint.manifest import read_json, read_manifest
from petune.checkpoint.peft import CONFIG_FILE, LAYOUTS, method_of, task_type_of, to_options
from petune.checkpoint.peft_layout import Layout
from petune.compat.enumerations import PeftType, TaskType
from petune.compat.folders import adapter_folder
from petune.errors import AdapterFormatError, ConfigError


class PeftConfig:
    """Settings of an adapter under PEFT's names; a field or a value that petune cannot follow is an error.

    Raises:
        ConfigError: such a field or value.
    """

    peft_type: ClassVar[PeftType]
    defaults: ClassVar[Mapping[str, Any]] = {}
    """PEFT's defaults of the fields that shape the method."""
    spellings: ClassVar[Mapping[str, str]] = {}
    """Former names of fields."""
    starts: ClassVar[Mapping[str, Callable[[Any], bool]]] = {}
    """Fields that a trained adapter can ignore and a fresh one cannot: the values a fresh one follows."""

    classes: ClassVar[dict[str, "type[PeftConfig]"]] = {}
    """The classes of all methods, by their type."""

    task_type: str | None
    inference_mode: bool
    base_model_name_or_path: str | None
    revision: str | None

    def __init_subclass__(cls) -> None:
        if "peft_type" in vars(cls):
            PeftConfig.classes[cls.peft_type.value] = cls

    def __init__(self, /, **fields: Any) -> None:
        for former, name in self.spellings.items():
            if former in fields and name in fields:
                raise ConfigError(f"{type(self).__name__}: '{former}' and '{name}' are one setting; give one of them")
            if former in fields:
                fields[name] = fields.pop(former)
        if fields.pop("peft_type", self.peft_type) != self.peft_type:
            raise ConfigError(f"{type(self).__name__} is of type {self.peft_type.value}; leave peft_type out")
        common = {"task_type": None, "inference_mode": False, "base_model_name_or_path": None, "revision": None}
        for name, value in {**common, **copy.deepcopy(dict(self.defaults)), **fields}.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "task_type" and value is not None:
            value = _task_type(value)
        if isinstance(value, set):
            value = sorted(value)
        if refusal := self.layout.refusal({name: value}):
            raise ConfigError(f"{type(self).__name__}: {refusal}")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    @property
    def layout(self) -> Layout:
        """How the method is spelled in PEFT's files."""
        return LAYOUTS[self.method]

    @property
    def method(self) -> str:
        """The name of petune's method."""
        return method_of({"peft_type": self.peft_type.value})

    @property
    def is_prompt_learning(self) -> bool:
        """Whether the method learns virtual tokens."""
        return "num_virtual_tokens" in self.layout.followed

    @property
    def is_adaption_prompt(self) -> bool:
        """Whether the method learns gated prompts of the upper layers."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with the type, as JSON holds them."""
        plain = {k: v.value if isinstance(v, Enum) else v for k, v in vars(self).items()}
        return {"peft_type": self.peft_type.value, **plain}

    def save_pretrained(self, save_directory: str) -> None:
        """Write ``adapter_config.json`` to a folder.

        Raises:
            OutputFolderError, ResourceError: it cannot be written.
        """
        # The keys of patterns keep their order: the first that fits counts.
        write_text(
            Path(save_directory) / CONFIG_FILE, json.dumps(dict(sorted(self.to_dict().items())), indent=2) + "\n"
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **hub: Any
    ) -> "PeftConfig":
        """Return the config of an adapter folder, or of a repository of the hub.

        Raises:
            AdapterFormatError: it is missing, malformed, or asks for what petune lacks.
            ConfigError: an unknown option of the hub.
        """
        folder = adapter_folder(pretrained_model_name_or_path, subfolder=subfolder, **hub)
        content = _described_by_petune(folder) or read_json(folder / CONFIG_FILE)
        method_of(content)  # says which types there are
        try:
            return get_peft_config(content)
        except ConfigError as error:
            raise AdapterFormatError(f"{folder / CONFIG_FILE}: {error}") from error

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings for a fresh adapter on ``model``.

        Raises:
            ConfigError: a start or a setting that petune cannot follow on this base.
        """
        for name, follows in self.starts.items():
            if name in vars(self) and not follows(getattr(self, name)):
                raise ConfigError(
                    f"{type(self).__name__}: {name}={getattr(self, name)!r} is a start that petune does not have;"
                    " leave it out"
                )
        try:
            return to_options(self.layout, self.to_dict(), model, structure)
        except AdapterFormatError as error:
            said = str(error).removeprefix(f"{CONFIG_FILE}: ")
            raise ConfigError(f"{type(self).__name__}: {said}") from error

    def start(self, model: PreTrainedModel) -> dict[str, Tensor] | None:
        """Return the tensors, as PEFT's file holds them, that a fresh adapter starts from; None for petune's start."""
        return None


def get_peft_config(config_dict: Mapping[str, Any]) -> PeftConfig:
    """Return the config that a dictionary with ``peft_type`` describes.

    Raises:
        ConfigError: an unknown type, field or value.
    """
    kind = config_dict.get("peft_type")
    kind = kind.value if isinstance(kind, PeftType) else kind
    if not isinstance(kind, str) or kind not in PeftConfig.classes:
        raise ConfigError(f"peft_type is {kind!r}; petune has {', '.join(sorted(PeftConfig.classes))}")
    return PeftConfig.classes[kind](**config_dict)


def _described_by_petune(folder: Path) -> dict[str, Any] | None:
    """Return PEFT's fields for a folder that only petune reads, as its settings are none that PEFT has."""
    content = None if (folder / CONFIG_FILE).is_file() else read_manifest(folder)
    if content is None or content.method not in LAYOUTS:
        return None
    peft_type = LAYOUTS[content.method].peft_type
    defaults = PeftConfig.classes[peft_type].defaults
    settings = content.trained_config or content.config
    same = {n: v for n, v in settings.items() if n in defaults and not isinstance(defaults[n], Enum)}
    base = {"base_model_name_or_path": content.base.name, "revision": content.base.revision}
    return {"peft_type": peft_type, "inference_mode": True, "task_type": task_type_of(content.task), **base, **same}


def _task_type(value: str) -> TaskType:
    try:
        return TaskType(value)
    except ValueError as error:
        known = ", ".join(task.value for task in TaskType)
        raise ConfigError(f"task_type is {value!r}; petune has {known}") from error
