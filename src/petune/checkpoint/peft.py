"""HF PEFT's adapter folders: ``adapter_config.json`` and ``adapter_model.safetensors``, our default layout."""

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.backbone.task_names import TaskName
from petune.checkpoint.peft_adaption_prompt import AdaptionPromptLayout
from petune.checkpoint.peft_ia3 import IA3Layout
from petune.checkpoint.peft_layout import CONFIG_FILE, WEIGHTS_FILE, Layout
from petune.checkpoint.peft_lora import LoRALayout
from petune.checkpoint.peft_names import that_match
from petune.checkpoint.peft_virtual_tokens import PrefixTuningLayout, PromptTuningLayout, PTuningLayout
from petune.errors import AdapterFormatError

__all__ = [
    "CONFIG_FILE", "LAYOUTS", "MODEL_LAYOUT", "WEIGHTS_FILE", "from_tensors", "layout_of", "method_of",
    "numbered_labels", "task_of", "task_type_of", "to_json", "to_options", "to_tensors",
]  # fmt: skip

_TOKENS = "token_adapter.trainable_tokens_delta"
"""What PEFT calls the rows of chosen tokens; they stand in place of the base's, despite the name."""

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

_LAST_LAYERS = ("score", "classifier", "out_proj")
"""What transformers calls the last linear of a classification head."""

_TASK_TYPES: Mapping[TaskName, str] = {
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
    # PEFT has no task with masks; without a task its models leave virtual tokens out, as feature extractors they do not
    "masked_lm": "FEATURE_EXTRACTION",
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}

MODEL_LAYOUT = ("full",)
"""Methods that learn the base's own parameters, which PEFT does not know: a plain transformers model is written."""


def layout_of(adapter: Adapter, structure: Structure) -> Layout | None:
    """Return the layout that expresses ``adapter``; None where PEFT has nothing that does."""
    if any(task.head is not None for task in adapter.tasks):
        return None  # a base has one head there
    layout = LAYOUTS.get(adapter.method.name)
    learned = {"modules_to_save": adapter.replacements, "trainable_token_indices": adapter.token_rows}
    if layout is None or any(slots and field not in layout.besides for field, slots in learned.items()):
        return None
    return layout if layout.fits(adapter.without_replacements(), structure) else None


def to_json(layout: Layout, adapter: Adapter, base: Base) -> str:
    """Return the text of ``adapter_config.json``."""
    content = {
        "peft_type": layout.peft_type,
        "task_type": task_type_of(base.task),
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
        **layout.config(adapter.without_replacements(), base.structure),
    }
    own = {path: slot for path, slot in adapter.token_rows.items() if slot.tied_to is None}
    besides = {
        "modules_to_save": sorted(adapter.replacements) or None,
        "trainable_token_indices": {path: slot.indices.tolist() for path, slot in own.items()} or None,
    }
    content |= {field: value for field, value in besides.items() if field in layout.besides}
    return json.dumps(dict(sorted(content.items())), indent=2) + "\n"  # of patterns, the first that fits counts


def to_tensors(layout: Layout, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
    """Return the tensors as PEFT's file holds them."""
    tensors = layout.to_file(adapter.without_replacements(), structure)
    for path, slot in adapter.replacements.items():
        tensors |= {f"{layout.prefix}{path}.{name}": tensor for name, tensor in slot.own.state_dict().items()}
    for path, rows in adapter.token_rows.items():
        if rows.tied_to is None:
            tensors[f"{layout.prefix}{path}.{_TOKENS}"] = rows.values.detach()
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def to_options(
    layout: Layout, config: Mapping[str, Any], model: PreTrainedModel, structure: Structure
) -> dict[str, Any]:
    """Return our settings for PEFT's ``config`` on the base ``model`` of this ``structure``.

    Raises:
        AdapterFormatError: the config asks for something petune does not do.
    """
    options = layout.options({f: value for f, value in config.items() if f not in layout.besides}, structure)
    _require_linears(config.get("target_modules"), model, structure)
    besides = {field: config.get(field) for field in layout.besides}
    if besides.get("trainable_token_indices"):
        options["trainable_token_indices"] = besides["trainable_token_indices"]
    names = besides.get("modules_to_save") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise AdapterFormatError(f"{CONFIG_FILE}: modules_to_save is {names!r}, expected a list of names")
    # PEFT takes every module whose path ends in a name, and lets some of the names match nothing.
    paths = tuple(path for path, _ in model.named_modules() if any(path.endswith(name) for name in names))
    if names and not paths:
        raise AdapterFormatError(f"{CONFIG_FILE}: modules_to_save={list(names)!r} matches no module of this base")
    return {**options, "modules_to_save": paths} if paths else options


def _require_linears(names: Any, model: PreTrainedModel, structure: Structure) -> None:
    """Make sure that no name in a list is of other modules alone: PEFT adapts convolutions too, and refuses others."""
    if not isinstance(names, list | tuple):
        return
    for name in sorted({name for name in names if isinstance(name, str)} - {*that_match(names, structure)}):
        for path, module in model.named_modules():
            if f".{path}".endswith(f".{name}"):
                raise AdapterFormatError(
                    f"{CONFIG_FILE}: target_modules names {name!r}, and '{path}' is a {type(module).__name__}; petune"
                    " adapts linears and embeddings, so leave it out, or name those inside it"
                )


def from_tensors(
    layout: Layout, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure
) -> dict[str, Tensor]:
    """Return the tensors of ``adapter``, a fresh one, from those of PEFT's file.

    Raises:
        AdapterFormatError: a tensor is of a kind or shape the method does not have.
    """
    rows = {f"{layout.prefix}{path}.{_TOKENS}": f"{path}.rows" for path in adapter.token_rows}
    starts = {f"{layout.prefix}{path}.": f"{path}.own." for path in adapter.replacements}
    whole: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        start = next((start for start in starts if name.startswith(start)), None)
        if name in rows:
            whole[rows[name]] = tensor
        elif start is None:
            rest[name] = tensor
        else:
            whole[starts[start] + name.removeprefix(start)] = tensor
    return {**layout.from_file(rest, adapter, structure), **whole}


def task_of(config: Mapping[str, Any]) -> TaskName | None:
    """Return the task that PEFT's ``config`` names; None where it names none of ours."""
    return next((task for task, name in _TASK_TYPES.items() if name == config.get("task_type")), None)


def task_type_of(task: TaskName) -> str:
    """Return what PEFT calls ``task``."""
    return _TASK_TYPES[task]


def numbered_labels(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return as many numbered labels as the head among PEFT's ``tensors`` has outputs.

    Raises:
        AdapterFormatError: there is no head among them.
    """
    last = tuple(f".{name}.weight" for name in _LAST_LAYERS)
    widths = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(last)]
    if not widths:
        raise AdapterFormatError(
            f"{WEIGHTS_FILE} holds no head, so its classes cannot be counted; load the base with labels and pass it"
        )
    return tuple(f"LABEL_{number}" for number in range(min(widths)))


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
