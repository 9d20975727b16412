"""The positions a model gives to tokens, and how many it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

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
    return limit - _counting(model).first


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
    counting, mask = _counting(model), _mask(inputs)
    first = counting.first
    if mask is not None and counting.by_mask:
        return (mask.cumsum(1) * mask - 1)[:, -tokens.shape[1] :]
    if first and ids is not None:
        real = (ids != first - 1).long()
        counted: Tensor = real.cumsum(1) * real + first - 1
        return counted
    past = cached_tokens(inputs)
    return torch.arange(first + past, first + past + tokens.shape[1], device=tokens.device)[None]


def positions_without_padding(model: PreTrainedModel, inputs: Mapping[str, Any], own: Tensor | None = None) -> Tensor:
    """Return positions [B or 1, T] of the tokens of a call in which padding on the left takes none.

    So a row has the positions it would have alone. Without a mask [B, T] of the tokens, those in a cache included, they
    are the model's own; and so they are without padding on the left.

    Args:
        model: the model.
        inputs: as for :func:`default_positions`.
        own: what that gives, where it is known.
    """
    mask, counting = _mask(inputs), _counting(model)
    own = default_positions(model, inputs) if own is None else own
    counts_itself = counting.by_mask or (counting.first and inputs.get("input_ids") is not None)
    if mask is None or counts_itself:
        return own
    before = (mask.cumsum(1) == 0).sum(1, keepdim=True)
    return (own - before).clamp(min=counting.first)


def _mask(inputs: Mapping[str, Any]) -> Tensor | None:
    """Return which of the tokens, those in a cache included, are no padding; None where no mask [B, T] says so."""
    mask = inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    tokens = inputs["inputs_embeds"] if inputs.get("input_ids") is None else inputs["input_ids"]
    return mask.long() if mask.shape[1] == cached_tokens(inputs) + tokens.shape[1] else None


def cached_tokens(inputs: Mapping[str, Any]) -> int:
    """Return how many tokens of each row a call has in its cache, also where that has let go of the oldest keys."""
    cache = inputs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


@dataclass(frozen=True, slots=True)
class _Counting:
    """How a model counts the positions that it gives itself."""

    first: int
    """Where they start: RoBERTa and its kin count behind the padding token's row, padding left out."""

    by_mask: bool
    """Whether its table of positions counts the tokens of the mask, as that of OPT does."""


_COUNTINGS: WeakKeyDictionary[PreTrainedModel, _Counting] = WeakKeyDictionary()
"""By model: they are asked for in every pass, and to find one takes a walk over all modules."""


def _counting(model: PreTrainedModel) -> _Counting:
    found = _COUNTINGS.get(model)
    if found is None:
        found = _COUNTINGS[model] = _found_counting(model)
    return found


def _found_counting(model: PreTrainedModel) -> _Counting:
    tables = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Embedding)]
    behind = (t.padding_idx for path, t in tables if path.endswith("position_embeddings") and t.padding_idx is not None)
    last = next(behind, None)
    return _Counting(0 if last is None else last + 1, any(takes(table, "attention_mask") for _, table in tables))
