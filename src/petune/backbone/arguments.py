"""What a model can be called with: the sets of arguments differ from one architecture to the next."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def takes(model: nn.Module, argument: str) -> bool:
    """Say whether the forward pass of ``model`` has an argument of this name."""
    return argument in inspect.signature(model.forward).parameters


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the argument that spares keys and values, where the model takes it."""
    return {"use_cache": False} if takes(model, "use_cache") else {}


def by_name(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of ``model`` by their names, those given by place included."""
    return {**dict(zip(inspect.signature(model.forward).parameters, args, strict=False)), **kwargs}


def decoder_inputs(model: PreTrainedModel, labels: Tensor) -> Tensor:
    """Return what the decoder of ``model`` reads to write ``labels``: the same [B, T], one place to the right.

    Most models make it themselves (mBART begins with the language). M2M100, NLLB-MoE and Blenderbot do it inside their
    own loss alone, in the plain way: the token that begins a text in front, and padding where no label is.
    """
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if own is not None:
        made: Tensor = own(labels=labels)
        return made
    shifted = labels.roll(1, 1)
    shifted[:, 0] = model.config.decoder_start_token_id
    return shifted.masked_fill(shifted < 0, model.config.pad_token_id or 0)
