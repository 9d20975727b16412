"""The positions a model gives to tokens, and how many it has."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def position_limit(model: PreTrainedModel) -> int | None:
    """Return how many tokens of one sequence have a position; None where there is no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    return limit - _first_position(model)


def default_positions(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    """Return the positions [B or 1, T] that the model itself would give to the tokens of a call.

    Args:
        model: the model.
        inputs: the call's ``input_ids`` or ``inputs_embeds``, and perhaps ``past_key_values``.
    """
    ids = inputs.get("input_ids")
    tokens = inputs["inputs_embeds"] if ids is None else ids
    first = _first_position(model)
    if first and ids is not None:
        real = (ids != first - 1).long()
        counted: Tensor = real.cumsum(1) * real + first - 1
        return counted
    cache = inputs.get("past_key_values")
    past = 0 if cache is None else cache.get_seq_length()
    return torch.arange(first + past, first + past + tokens.shape[1], device=tokens.device)[None]


def _first_position(model: PreTrainedModel) -> int:
    """Return where positions start: RoBERTa and its kin count behind the padding token's row, padding left out."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
