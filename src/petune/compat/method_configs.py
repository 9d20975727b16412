"""The config class of each method, with HF PEFT's defaults, and how its fresh adapter starts."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from petune.backbone.refusals import explained
from petune.backbone.structure import Structure
from petune.compat.config import PeftConfig
from petune.compat.default_targets import default_targets
from petune.compat.enumerations import PeftType, PromptEncoderReparameterizationType, PromptTuningInit
from petune.errors import ConfigError
from petune.sites.embeddings import token_embeddings


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
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "trainable_token_indices": None,
    }
    spellings: ClassVar[Mapping[str, str]] = {"lora_r": "r"}
    starts: ClassVar[Mapping[str, Callable[[Any], bool]]] = {
        "init_lora_weights": lambda value: value in (True, False, "gaussian"),
        "eva_config": lambda value: value is None,
    }

    def options(self, model: PreTrainedModel, structure: Structure) -> dict[str, Any]:
        """Return petune's settings; the default targets are those PEFT has for the architecture."""
        if vars(self)["target_modules"] is None:
            self.target_modules = list(default_targets(structure, model.config.model_type))
        return {**super().options(model, structure), "init_lora_weights": vars(self)["init_lora_weights"]}


@final
class IA3Config(PeftConfig):
    """IA3; the modules have to be named, as PEFT's defaults differ from model to model."""

    peft_type = PeftType.IA3
    defaults: ClassVar[Mapping[str, Any]] = {
        "target_modules": None,
        "exclude_modules": None,
        "feedforward_modules": None,
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
        "modules_to_save": None,
    }
    starts: ClassVar[Mapping[str, Callable[[Any], bool]]] = {"init_ia3_weights": lambda value: value is True}


@final
class AdaptionPromptConfig(PeftConfig):
    """LLaMA-Adapter as PEFT has it: one gate a layer, without tanh."""

    peft_type = PeftType.ADAPTION_PROMPT
    defaults: ClassVar[Mapping[str, Any]] = {"adapter_len": None, "adapter_layers": None, "target_modules": None}

    @property
    def is_adaption_prompt(self) -> bool:
        """True."""
        return True


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
        text = model.config.get_text_config()
        attention = next(iter(structure.attentions), None)
        heads = {text.num_attention_heads, attention.num_kv_heads} if attention else set()
        sizes = {
            "num_layers": {text.num_hidden_layers},
            "num_attention_heads": heads,
            "token_dim": {text.hidden_size, *(count * attention.head_dim for count in heads if attention)},
        }
        for name, real in sizes.items():
            if given[name] is not None and given[name] not in tuple(real):  # a file may hold a list
                expected = " or ".join(str(size) for size in sorted(real)) or "none"
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
        if not vars(self)["prefix_projection"] or not structure.attentions:
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
        if "trust_remote_code" in (given["tokenizer_kwargs"] or {}):  # they may come from a file
            raise ConfigError(
                f"{type(self).__name__}: tokenizer_kwargs has trust_remote_code, and petune runs no code that a file"
                " may ask for; leave it out, or give a tokenizer_name_or_path whose tokenizer transformers has"
            )
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
        rows = torch.tensor((ids * -(-length // len(ids)))[:length])
        return {"prompt_embeddings": token_embeddings(model, rows).to(torch.float32)}


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
