"""The config classes of HF PEFT: its names, its defaults, and how a fresh adapter starts.

Which fields and values can be followed is told by the tables of :mod:`petune.checkpoint.peft`, which read the same
fields from folders; what matters for a fresh adapter alone, its start, is told here.
"""

import json
from collections.abc import Callable, Mapping
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from petune.backbone.refusals import explained
from petune.backbone.structure import Structure
from petune.checkpoint.durable import write_text
from petune.checkpoint.manifest import read_json, read_manifest
from petune.checkpoint.peft import CONFIG_FILE, LAYOUTS, method_of, task_type_of, to_options
from petune.checkpoint.peft_layout import Layout
from petune.compat.default_targets import default_targets
from petune.compat.folders import adapter_folder
from petune.errors import AdapterFormatError, ConfigError


class TaskType(StrEnum):
    """What the base model is for."""

    CAUSAL_LM = "CAUSAL_LM"
    QUESTION_ANS = "QUESTION_ANS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    SEQ_CLS = "SEQ_CLS"
    TOKEN_CLS = "TOKEN_CLS"  # noqa: S105 - no password


class PeftType(StrEnum):
    """The methods, as PEFT's files name them."""

    LORA = "LORA"
    P_TUNING = "P_TUNING"
    PREFIX_TUNING = "PREFIX_TUNING"
    PROMPT_TUNING = "PROMPT_TUNING"


class PromptTuningInit(StrEnum):
    """How the virtual tokens of prompt tuning start."""

    TEXT = "TEXT"
    SAMPLE_VOCAB = "SAMPLE_VOCAB"
    RANDOM = "RANDOM"


class PromptEncoderReparameterizationType(StrEnum):
    """The network that P-tuning trains."""

    MLP = "MLP"
    LSTM = "LSTM"


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

    task_type: str | None
    inference_mode: bool
    base_model_name_or_path: str | None
    revision: str | None

    def __init__(self, **fields: Any) -> None:
        for former, name in self.spellings.items():
            if former in fields and name in fields:
                raise ConfigError(f"{type(self).__name__}: '{former}' and '{name}' are one setting; give one of them")
            if former in fields:
                fields[name] = fields.pop(former)
        if fields.pop("peft_type", self.peft_type) != self.peft_type:
            raise ConfigError(f"{type(self).__name__} is of type {self.peft_type.value}; leave peft_type out")
        common = {"task_type": None, "inference_mode": False, "base_model_name_or_path": None, "revision": None}
        for name, value in {**common, **self.defaults, **fields}.items():
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
        write_text(Path(save_directory) / CONFIG_FILE, json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")

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
        if content.get("peft_type") not in _CLASSES:
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


@final
class LoraConfig(PeftConfig):
    """LoRA; without ``target_modules``, the query and value projections of every attention."""

    peft_type = PeftType.LORA
    defaults: ClassVar[Mapping[str, Any]] = {
        "r": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": None,
        "exclude_modules": None,
        "layers_to_transform": None,
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    spellings: ClassVar[Mapping[str, str]] = {"lora_r": "r"}
    starts: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "init_lora_weights": lambda value: value is True,
        "eva_config": lambda value: value is None,
    }

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings; the default targets are those PEFT has for the architecture."""
        if vars(self)["target_modules"] is None:
            self.target_modules = list(default_targets(structure, model.config.model_type))
        return super().options(model, structure)


class PromptLearningConfig(PeftConfig):
    """What the methods with virtual tokens share."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "num_virtual_tokens": None,
        "num_transformer_submodules": None,
        "num_layers": None,
        "num_attention_heads": None,
        "token_dim": None,
        "modules_to_save": None,
    }

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings.

        Raises:
            ConfigError: no number of virtual tokens, or sizes that are not the base's.
        """
        given = vars(self)
        if given["num_virtual_tokens"] is None:
            raise ConfigError(
                f"{type(self).__name__}: num_virtual_tokens is missing; give the number of virtual tokens"
            )
        text, attention = model.config.get_text_config(), structure.attentions[0]
        heads = {text.num_attention_heads, attention.num_kv_heads}
        sizes = {
            "num_layers": {text.num_hidden_layers},
            "num_attention_heads": heads,
            "token_dim": {text.hidden_size, *(count * attention.head_dim for count in heads)},
        }
        for name, real in sizes.items():
            if given[name] is not None and given[name] not in real:
                expected = " or ".join(str(size) for size in sorted(real))
                raise ConfigError(
                    f"{type(self).__name__}: {name}={given[name]!r}, but the base has {expected}; leave it out"
                )
        return super().options(model, structure)


@final
class PrefixTuningConfig(PromptLearningConfig):
    """Prefix tuning, with petune's start."""

    peft_type = PeftType.PREFIX_TUNING
    defaults: ClassVar[Mapping[str, Any]] = {
        **PromptLearningConfig.defaults,
        "encoder_hidden_size": None,
        "prefix_projection": False,
        "init_weights": None,
    }
    starts: ClassVar[Mapping[str, Callable[[Any], bool]]] = {"init_weights": lambda value: value is None}

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings, those of the projection included."""
        options = super().options(model, structure)
        if not vars(self)["prefix_projection"]:
            return options
        attention = structure.attentions[0]
        width = vars(self)["encoder_hidden_size"] or attention.num_kv_heads * attention.head_dim
        return {**options, "prefix_projection": True, "encoder_hidden_size": width}


@final
class PromptTuningConfig(PromptLearningConfig):
    """Prompt tuning; a text start is PEFT's, token by token, a random one petune's."""

    peft_type = PeftType.PROMPT_TUNING
    defaults: ClassVar[Mapping[str, Any]] = {
        **PromptLearningConfig.defaults,
        "prompt_tuning_init": PromptTuningInit.RANDOM,
        "prompt_tuning_init_text": None,
        "tokenizer_name_or_path": None,
        "tokenizer_kwargs": None,
    }
    starts: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "prompt_tuning_init": lambda value: value in list(PromptTuningInit),
    }

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings.

        Raises:
            ConfigError: settings of a text start without one, or the other way round.
        """
        given, is_text = vars(self), vars(self)["prompt_tuning_init"] == PromptTuningInit.TEXT
        for name in ("prompt_tuning_init_text", "tokenizer_name_or_path"):
            if is_text and not given[name]:
                raise ConfigError(f"{type(self).__name__}: prompt_tuning_init is TEXT, so {name} is needed")
        if given["tokenizer_kwargs"] and not is_text:
            raise ConfigError(f"{type(self).__name__}: tokenizer_kwargs goes with prompt_tuning_init='TEXT' only")
        start = "vocabulary" if given["prompt_tuning_init"] == PromptTuningInit.SAMPLE_VOCAB else "random"
        return {**super().options(model, structure), "prompt_tuning_init": start}

    def start(self, model: PreTrainedModel) -> dict[str, Tensor] | None:
        """Return the embeddings [P, d] of the text: special tokens included, cut or repeated to the length."""
        given = vars(self)
        if given["prompt_tuning_init"] != PromptTuningInit.TEXT:
            return None
        name, length = given["tokenizer_name_or_path"], given["num_virtual_tokens"]
        with explained(f"the tokenizer {name}"):
            tokenizer = AutoTokenizer.from_pretrained(name, **(given["tokenizer_kwargs"] or {}))
        ids = tokenizer(given["prompt_tuning_init_text"])["input_ids"]
        table = model.get_input_embeddings().weight.detach()
        rows = torch.tensor((ids * -(-length // len(ids)))[:length], device=table.device)
        return {"prompt_embeddings": table[rows].to(torch.float32)}


@final
class PromptEncoderConfig(PromptLearningConfig):
    """P-tuning, with petune's start."""

    peft_type = PeftType.P_TUNING
    defaults: ClassVar[Mapping[str, Any]] = {
        **PromptLearningConfig.defaults,
        "encoder_reparameterization_type": PromptEncoderReparameterizationType.MLP,
        "encoder_hidden_size": None,
        "encoder_num_layers": 2,
        "encoder_dropout": 0.0,
    }

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings, those of the encoder included; the number of layers is the LSTM's alone."""
        given = vars(self)
        options = {
            **super().options(model, structure),
            "encoder_reparameterization_type": str(given["encoder_reparameterization_type"]),
            "encoder_hidden_size": given["encoder_hidden_size"] or structure.hidden_size,
            "encoder_dropout": given["encoder_dropout"],
        }
        default = given["encoder_num_layers"] == self.defaults["encoder_num_layers"]
        return options if default else {**options, "encoder_num_layers": given["encoder_num_layers"]}


_CLASSES: Mapping[str, type[PeftConfig]] = {
    kind.peft_type.value: kind for kind in (LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig)
}


def get_peft_config(config_dict: Mapping[str, Any]) -> PeftConfig:
    """Return the config that a dictionary with ``peft_type`` describes.

    Raises:
        ConfigError: an unknown type, field or value.
    """
    kind = config_dict.get("peft_type")
    kind = kind.value if isinstance(kind, PeftType) else kind
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise ConfigError(f"peft_type is {kind!r}; petune has {', '.join(sorted(_CLASSES))}")
    return _CLASSES[kind](**config_dict)


def _described_by_petune(folder: Path) -> dict[str, Any] | None:
    """Return PEFT's fields for a folder that only petune reads, as its settings are none that PEFT has."""
    content = None if (folder / CONFIG_FILE).is_file() else read_manifest(folder)
    if content is None or content.method not in LAYOUTS:
        return None
    peft_type = LAYOUTS[content.method].peft_type
    defaults = _CLASSES[peft_type].defaults
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
