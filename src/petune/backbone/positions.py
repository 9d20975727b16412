"""The positions a model gives to tokens, and how many it has."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.arguments import takes
from petune.errors import ConfigError


def position_limit(model: PreTrainedModel) -> int | None:
    """Return how many tokens of one sequence have a position; None where there is no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    return limit - _first_position(model)


def require_positions(model: PreTrainedModel, virtual_tokens: int) -> None:
    """Make sure that as many virtual tokens have positions.

    Raises:
        ConfigError: the model has fewer.
    """
    limit = position_limit(model)
    if limit is not None and virtual_tokens > limit:
        raise ConfigError(
            f"{virtual_tokens} virtual tokens are more than the {limit} positions that {type(model).__name__} has, and"
            " rows need some as well; set num_virtual_tokens to fewer"
        )


def default_positions(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    """Return the positions [B or 1, T] that the model itself would give to the tokens of a call.

    Args:
        model: the model.
        inputs: the call's ``input_ids`` or ``inputs_embeds``, and perhaps ``attention_mask`` and ``past_key_values``.
    """
    ids = inputs.get("input_ids")
    tokens = inputs["inputs_embeds"] if ids is None else ids
    first = _first_position(model)
    mask = _mask(inputs)
    if mask is not None and _counts_by_mask(model):
        return (mask.cumsum(1) * mask - 1)[:, -tokens.shape[1] :]
    if first and ids is not None:
        real = (ids != first - 1).long()
        counted: Tensor = real.cumsum(1) * real + first - 1
        return counted
    past = _past(inputs)
    return torch.arange(first + past, first + past + tokens.shape[1], device=tokens.device)[None]


def positions_without_padding(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
    """Return positions [B or 1, T] of the tokens of a call in which padding on the left takes none.

    So a row has the positions it would have alone. Without a mask [B, T] of the tokens, those in a cache included, they
    are the model's own; and so they are without padding on the left.

    Args:
        model: the model.
        inputs: as for :func:`default_positions`.
    """
    own, mask, first = default_positions(model, inputs), _mask(inputs), _first_position(model)
    counts_itself = _counts_by_mask(model) or (first and inputs.get("input_ids") is not None)
    if mask is None or counts_itself:
        return own
    before = (mask.cumsum(1) == 0).sum(1, keepdim=True)
    return (own - before).clamp(min=first)


def _mask(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return which of the tokens, those in a cache included, are no padding; None where no mask [B, T] says so."""
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    tokens = inputs["inputs_embeds"] if inputs.get("input_ids") is None else inputs["input_ids"]
    return mask.long() if mask.shape[1] == _past(inputs) + tokens.shape[1] else None


def _past(inputs: Mapping[str, Any]) -> int:
    cache = inputs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def _counts_by_mask(model: PreTrainedModel) -> bool:
    """Say whether the model's table of positions counts the tokens of the mask itself, as that of OPT does."""
    return any(isinstance(module, nn.Embedding) and takes(module, "attention_mask") for module in model.modules())


def _first_position(model: PreTrainedModel) -> int:
    """Return where positions start: RoBERTa and its kin count behind the padding token's row, padding left out."""
    for path, module in model.named_modules():
        if path.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0
