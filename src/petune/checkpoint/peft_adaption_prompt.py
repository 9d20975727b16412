"""LLaMA-Adapter in HF PEFT's files, where it is called adaption prompt.

PEFT's has one gate a layer, without tanh, and knows attentions with separate key, value and output projections. For
GPT-2 it adds the prompts' part behind the output projection, which is another method; such folders are refused.
"""

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.attentions import Attention
from petune.backbone.structure import Structure
from petune.checkpoint.peft_layout import CONFIG_FILE, PREFIX, WEIGHTS_FILE, Layout
from petune.errors import AdapterFormatError

_MODULE = "self_attn"
_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
_MODEL_TYPES = ("llama", "mistral")
"""The architectures that PEFT knows where they mean the same."""


@final
class AdaptionPromptLayout(Layout):
    """``<attention>.adaption_prompt`` [1, P, d] and ``<attention>.adaption_gate`` [1], of the topmost layers."""

    peft_type = "ADAPTION_PROMPT"
    besides = frozenset()
    followed = ("adapter_len", "adapter_layers", "target_modules")

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """Say whether gate, attentions and architecture are such as PEFT knows."""
        settings = adapter.config.model_dump()
        alike = settings["shared_gate"] and settings["gate_activation"] == "none"
        return alike and structure.model_type in _MODEL_TYPES and _why_not(structure) is None

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's fields of adaption prompts."""
        return {
            "adapter_len": adapter.config.model_dump()["adapter_len"],
            "adapter_layers": len(adapter.slots),
            "target_modules": _MODULE,
        }

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return our settings: one gate a layer, without tanh."""
        self.require_known(config)
        if (reason := _why_not(structure)) is not None:
            raise AdapterFormatError(f"{CONFIG_FILE}: adaption prompts of PEFT cannot be read for this base: {reason}")
        if config.get("target_modules") not in (None, _MODULE):
            raise AdapterFormatError(
                f"{CONFIG_FILE}: target_modules is {config['target_modules']!r}; petune reads '{_MODULE}'"
            )
        missing = [field for field in ("adapter_len", "adapter_layers") if config.get(field) is None]
        if missing:
            raise AdapterFormatError(f"{CONFIG_FILE}: '{missing[0]}' is missing")
        numbers = {field: config[field] for field in ("adapter_len", "adapter_layers")}
        return {**numbers, "gate_activation": "none", "shared_gate": True}

    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return PEFT's tensors."""
        file: dict[str, Tensor] = {}
        for name, tensor in adapter.tensors().items():
            path, _, kind = name.rpartition(".")
            file[f"{PREFIX}{path}.adaption_{kind}"] = tensor[None] if kind == "prompt" else tensor
        return file

    def from_file(self, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``<attention>.prompt`` and ``<attention>.gate``."""
        ours: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            path, _, kind = name.removeprefix(PREFIX).rpartition(".adaption_")
            shaped = {"prompt": tensor.ndim == 3 and len(tensor) == 1, "gate": tensor.ndim == 1}
            if not name.startswith(PREFIX) or not shaped.get(kind):
                raise AdapterFormatError(
                    f"{WEIGHTS_FILE}: tensor '{name}' {list(tensor.shape)} is neither a prompt [1, P, d] nor a gate [1]"
                )
            ours[f"{path}.{kind}"] = tensor[0] if kind == "prompt" else tensor
        return ours


def _why_not(structure: Structure) -> str | None:
    """Say what keeps PEFT's adaption prompts from meaning the same on a base; None if nothing does."""
    for attention in structure.attentions:
        if (reason := _why_not_at(attention, structure)) is not None:
            return f"'{attention.path}' {reason}"
    return None if structure.attentions else "it has no attention modules"


def _why_not_at(attention: Attention, structure: Structure) -> str | None:
    inside = {
        linear.path.removeprefix(f"{attention.path}."): linear
        for linear in structure.linears
        if linear.path.startswith(f"{attention.path}.")
    }
    if attention.path.rpartition(".")[2] != _MODULE or not inside.keys() >= set(_LINEARS):
        return f"is not '{_MODULE}' with {', '.join(_LINEARS)}"
    if inside["o_proj"].has_bias:
        return "has a bias behind o_proj, which PEFT adds a second time"
    return None
