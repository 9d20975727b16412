"""HF PEFT's adapter folders: ``adapter_config.json`` and ``adapter_model.safetensors``, our default layout."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.structure import Structure
from petune.checkpoint.peft_adaption_prompt import AdaptionPromptLayout
from petune.checkpoint.peft_ia3 import IA3Layout
from petune.checkpoint.peft_layout import CONFIG_FILE, WEIGHTS_FILE, Layout
from petune.checkpoint.peft_lora import LoRALayout
from petune.checkpoint.peft_virtual_tokens import PrefixTuningLayout, PromptTuningLayout, PTuningLayout
from petune.errors import AdapterFormatError

__all__ = ["CONFIG_FILE", "LAYOUTS", "MODEL_LAYOUT", "WEIGHTS_FILE", "layout_of", "method_of", "to_json", "to_tensors"]

LAYOUTS: Mapping[str, Layout] = {
    "ia3": IA3Layout(),
    "llama_adapter": AdaptionPromptLayout(),
    "lora": LoRALayout(),
    "p_tuning": PTuningLayout(),
    "prefix_tuning": PrefixTuningLayout(),
    "p_tuning_v2": PrefixTuningLayout(),
    "prompt_tuning": PromptTuningLayout(),
}
"""The layouts by the method's name; of several with one ``peft_type``, the first is the method that reads it."""

MODEL_LAYOUT = ("full",)
"""Methods that learn the base's own parameters, which PEFT does not know: a plain transformers model is written."""


def layout_of(adapter: Adapter, structure: Structure) -> Layout | None:
    """Return the layout that expresses ``adapter``; None where PEFT has nothing that does."""
    layout = LAYOUTS.get(adapter.method.name)
    return layout if layout is not None and layout.fits(adapter, structure) else None


def to_json(layout: Layout, adapter: Adapter, structure: Structure, base: str, revision: str | None) -> str:
    """Return the text of ``adapter_config.json``."""
    content = {
        "peft_type": layout.peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        **layout.config(adapter, structure),
    }
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def to_tensors(layout: Layout, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
    """Return the tensors as PEFT's file holds them."""
    return {name: tensor.cpu().contiguous() for name, tensor in layout.to_file(adapter, structure).items()}


def method_of(config: Mapping[str, Any]) -> str:
    """Return the name of our method for PEFT's ``config``.

    Raises:
        AdapterFormatError: petune has no method of that type.
    """
    by_type = {LAYOUTS[name].peft_type: name for name in reversed(tuple(LAYOUTS))}
    peft_type = config.get("peft_type")
    if not isinstance(peft_type, str) or peft_type not in by_type:
        known = ", ".join(sorted(by_type))
        raise AdapterFormatError(f"{CONFIG_FILE}: peft_type is {peft_type!r}; petune reads {known}")
    return by_type[peft_type]
