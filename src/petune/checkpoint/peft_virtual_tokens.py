"""Soft prompts and prefixes in HF PEFT's files."""

import math
from abc import ABC
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.attentions import are_alike
from petune.backbone.structure import Structure
from petune.checkpoint.peft_layout import CONFIG_FILE, PROMPT_PREFIX, WEIGHTS_FILE, Layout, Rule
from petune.errors import AdapterFormatError


class VirtualTokensLayout(Layout, ABC):
    """Methods whose file holds one tensor, ``prompt_embeddings``, and whose config tells its shape."""

    prefix = PROMPT_PREFIX
    followed = ("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim")

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """PEFT has tokens for each run of a repeated block."""
        return not structure.repeats_blocks

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return the number of virtual tokens; how they started is not kept."""
        self.require_known(config)
        parts, known = config.get("num_transformer_submodules"), (1, 2) if structure.kind == "encoder-decoder" else (1,)
        if parts is not None and parts not in known:
            raise AdapterFormatError(
                f"{CONFIG_FILE}: num_transformer_submodules is {parts!r}, expected {' or '.join(map(str, known))}:"
                f" this base is of the kind {structure.kind}"
            )
        return {"num_virtual_tokens": config.get("num_virtual_tokens")}

    def _config(self, adapter: Adapter, heads: int, layers: int, token_dim: int) -> dict[str, Any]:
        return {
            "num_virtual_tokens": adapter.config.model_dump()["num_virtual_tokens"],
            "num_transformer_submodules": 1,
            "num_attention_heads": heads,
            "num_layers": layers,
            "token_dim": token_dim,
        }

    def _only(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if set(tensors) != {"prompt_embeddings"} or tensors["prompt_embeddings"].ndim != 2:
            found = ", ".join(f"{name} {list(t.shape)}" for name, t in sorted(tensors.items()))
            raise AdapterFormatError(f"{WEIGHTS_FILE} must hold one matrix, prompt_embeddings; it holds {found}")
        return tensors["prompt_embeddings"]


class SoftPromptLayout(VirtualTokensLayout, ABC):
    """Methods that are left with embeddings: ``prompt_embeddings`` [P, d].

    For an encoder-decoder PEFT writes [2P, d] by default: it puts the first P in front of the encoder's tokens, and
    neither trains nor reads the others.
    """

    _FIXED: Mapping[str, Any] = {}
    """Fields of the method that are written."""

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """Say whether it is one prompt in front of everything: PEFT knows nothing else."""
        placement = adapter.placement
        one = placement is None or (placement.before_special and placement.versions == 1)
        return one and bool(structure.attentions) and super().fits(adapter, structure)

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's fields."""
        (embeddings,) = adapter.tensors().values()
        attention = structure.attentions[0]
        fields = self._config(adapter, attention.num_kv_heads, len(structure.attentions), embeddings.shape[1])
        return {**fields, **self._FIXED}

    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``prompt_embeddings`` [P, d]."""
        return {"prompt_embeddings": adapter.tensors()["source.prompt_embeddings"]}

    def from_file(self, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return the embeddings of the source."""
        rows, tokens = self._only(tensors), adapter.config.model_dump()["num_virtual_tokens"]
        halves = structure.kind == "encoder-decoder" and len(rows) == 2 * tokens
        return {"source.prompt_embeddings": rows[:tokens] if halves else rows}


@final
class PromptTuningLayout(SoftPromptLayout):
    """Prompt tuning."""

    peft_type = "PROMPT_TUNING"
    neutral: Mapping[str, Rule] = dict.fromkeys(
        ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"), lambda _: True
    )
    _FIXED: Mapping[str, Any] = {"prompt_tuning_init": "RANDOM"}


@final
class PTuningLayout(SoftPromptLayout):
    """P-tuning: PEFT too writes what the encoder computed, never the encoder."""

    peft_type = "P_TUNING"
    neutral: Mapping[str, Rule] = dict.fromkeys(
        ("encoder_reparameterization_type", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout"),
        lambda _: True,
    )

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's fields of P-tuning, with the encoder the embeddings were trained with."""
        fields = super().config(adapter, structure)
        trained = adapter.trained_config.model_dump()
        kind = trained["encoder_reparameterization_type"]
        return {
            **fields,
            "encoder_reparameterization_type": "MLP" if kind == "none" else kind,
            "encoder_hidden_size": trained["encoder_hidden_size"] or fields["token_dim"],
            "encoder_num_layers": trained["encoder_num_layers"] or 2,
            "encoder_dropout": trained["encoder_dropout"],
        }

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return the number of virtual tokens; the encoder is gone."""
        return {**super().options(config, structure), "encoder_reparameterization_type": "none"}


@final
class PrefixTuningLayout(VirtualTokensLayout):
    """Prefix tuning: ``prompt_embeddings`` [P, L * 2 * K * D], by layer, key or value, head, width.

    P-tuning v2 is the same in PEFT's files.
    """

    peft_type = "PREFIX_TUNING"
    # A folder saved with a projection holds the keys and values it computed, as one saved without does.
    neutral: Mapping[str, Rule] = dict.fromkeys(
        ("encoder_hidden_size", "init_weights", "prefix_projection"), lambda _: True
    )

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """Say whether it is a plain prefix: PEFT shows an infix to every token, has no gate, and shifts positions.

        Its one matrix has keys and values of one size for every layer. It leaves encoders out of encoder-decoders.
        """
        settings = adapter.config.model_dump()
        plain = settings.get("placement", "prefix") == "prefix" and not settings.get("prefix_gate", False)
        plain = plain and settings["shift_positions"] and _is_one_matrix(structure)
        plain = plain and structure.kind != "encoder-decoder"
        return plain and super().fits(adapter, structure)

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return the number of virtual tokens; where keys and values differ in size there is no such file.

        What a base without any attention lacks, the method itself says.
        """
        if structure.attentions and not _is_one_matrix(structure):
            raise AdapterFormatError(
                f"{WEIGHTS_FILE}: HF PEFT's prefixes have keys and values of one size at every layer, and this base has"
                " layers that differ in their heads or widths, or lack an attention; train one with petune"
            )
        return super().options(config, structure)

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's fields of prefix tuning."""
        attention = structure.attentions[0]
        width = attention.num_kv_heads * attention.head_dim
        fields = self._config(adapter, attention.num_kv_heads, len(structure.attentions), width)
        return {**fields, "prefix_projection": False, "encoder_hidden_size": width}

    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``prompt_embeddings``."""
        ours = adapter.tensors()
        pairs = [torch.stack([ours[f"{a.path}.keys"], ours[f"{a.path}.values"]]) for a in structure.attentions]
        stacked = torch.stack(pairs)  # [L, 2, K, P, D]
        return {"prompt_embeddings": stacked.permute(3, 0, 1, 2, 4).flatten(1)}

    def from_file(self, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return keys and values [K, P, D] of each attention."""
        if structure.kind == "encoder-decoder":
            raise AdapterFormatError(
                f"{WEIGHTS_FILE}: HF PEFT's prefixes leave the encoder of an encoder-decoder out, and petune's do not;"
                " train one with petune"
            )
        flat = self._only(tensors)
        first, layers = structure.attentions[0], len(structure.attentions)
        shape = (flat.shape[0], layers, 2, first.num_kv_heads, first.head_dim)
        if flat.shape[1] != math.prod(shape[1:]):
            raise AdapterFormatError(
                f"{WEIGHTS_FILE}: prompt_embeddings has {flat.shape[1]} columns, this base needs {math.prod(shape[1:])}"
                f" ({layers} layers x 2 x {first.num_kv_heads} heads x {first.head_dim})"
            )
        stacked = flat.view(shape).permute(1, 2, 3, 0, 4)
        return {
            f"{attention.path}.{name}": stacked[layer, part]
            for layer, attention in enumerate(structure.attentions)
            for part, name in enumerate(("keys", "values"))
        }


def _is_one_matrix(structure: Structure) -> bool:
    """Say whether every block has an attention, and all have keys and values of one size."""
    in_blocks = {attention.block for attention in structure.attentions}
    return in_blocks == {*range(structure.num_blocks)} and are_alike(structure.attentions)
