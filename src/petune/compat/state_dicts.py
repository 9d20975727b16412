"""The tensors of one adapter under the names of HF PEFT's files, taken from a model and given to it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.modules.module import _IncompatibleKeys

from petune.checkpoint.peft import from_tensors, layout_of, to_tensors
from petune.compat.model import PeftModel
from petune.compat.unsupported import refuse


def get_peft_model_state_dict(
    model: PeftModel, state_dict: Mapping[str, Tensor] | None = None, adapter_name: str = "default", **others: Any
) -> dict[str, Tensor]:
    """Return the tensors of an adapter as PEFT's file holds them; under petune's names where PEFT has no such adapter.

    Args:
        model: the model.
        state_dict: the whole model's tensors, where the caller has them already.
        adapter_name: which adapter.
        others: PEFT's other arguments; none is supported.

    Raises:
        ConfigError: no such adapter, another argument, or a ``state_dict`` that is not the model's.
    """
    refuse("get_peft_model_state_dict", **others)
    model.require_same(adapter_name, state_dict)
    adapter, structure = model.base_model.adapter(adapter_name).baked(), model.base_model.base.structure
    layout = layout_of(adapter, structure)
    return dict(adapter.tensors()) if layout is None else to_tensors(layout, adapter, structure)


def set_peft_model_state_dict(
    model: PeftModel, peft_model_state_dict: Mapping[str, Tensor], adapter_name: str = "default", **others: Any
) -> _IncompatibleKeys:
    """Give an adapter the tensors that :func:`get_peft_model_state_dict` returned; every one must be there and fit.

    An adapter that computes its tensors while it is trained, from an encoder, holds them directly from then on.

    Raises:
        AdapterFormatError: a tensor is missing, unknown, or of another shape.
        ConfigError: no such adapter, or another argument.
    """
    refuse("set_peft_model_state_dict", **others)
    trainable = any(p.requires_grad for p in model.base_model.adapter(adapter_name).parameters())
    model.base_model.bake(adapter_name)
    adapter, structure = model.base_model.adapter(adapter_name), model.base_model.base.structure
    layout, tensors = layout_of(adapter, structure), peft_model_state_dict
    adapter.load_tensors(tensors if layout is None else from_tensors(layout, tensors, adapter, structure))
    adapter.set_trainable(trainable)
    return _IncompatibleKeys([], [])
