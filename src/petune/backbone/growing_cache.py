"""A K/V cache with room for the tokens to come, so that a new one is written behind the others and copies none of them.

transformers' own cache makes a new tensor of all its keys and values for every token.

Shapes: B rows, K key-value heads, S tokens held, D head width.
"""

from typing import Any, final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from petune.backbone.arguments import takes

ROOM = 64
"""For how many further tokens memory is taken at a time."""


@final
class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values of one attention, as a view of tensors with room behind them.

    Whatever puts other tensors in their place (a reordering of beams, a cut) gets room of its own with the next token.
    """

    keys: Tensor
    values: Tensor
    _space: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, K, T, D] behind the others, and return all of them [B, K, S + T, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self._space or (None, None)
        keys = _with_room(keys, self.keys, key_states)
        values = _with_room(values, self.values, value_states)
        self._space = keys, values
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _with_room(space: Tensor | None, held: Tensor, new: Tensor) -> Tensor:
    """Return ``space`` if ``held`` lies at its beginning and ``new`` fits behind it; else a new one that begins so."""
    length = held.shape[2] if held.numel() else 0
    end = length + new.shape[2]
    if (
        space is not None
        and length
        and end <= space.shape[2]
        and (held.data_ptr(), held.shape[:2]) == (space.data_ptr(), space.shape[:2])
    ):
        return space
    space = new.new_empty(*new.shape[:2], end + ROOM, new.shape[3])
    if length:
        space[:, :, :length] = held
    return space


def growing_cache(model: PreTrainedModel) -> DynamicCache | None:
    """Return an empty cache for ``model``, or None where it does not simply keep all keys and values."""
    if model.config.is_encoder_decoder or not takes(model, "past_key_values"):
        return None
    told = model.generation_config
    own = told is not None and (told.use_cache is False or told.cache_implementation is not None)
    if own or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [GrowingLayer() for _ in cache.layers]
    return cache


def joined_on_the_left(cache: DynamicCache, parts: list[tuple[list[int], DynamicCache]]) -> None:
    """Fill an empty ``cache`` with the rows of ``parts``, each with the rows' places; shorter ones end where all end.

    What stands in front of shorter ones is zero; a mask has to hide it.
    """
    rows = sum(len(places) for places, _ in parts)
    for number, layer in enumerate(cache.layers):
        held = [(places, part.layers[number]) for places, part in parts]
        if not held[0][1].is_initialized:  # a layer that borrows another one's
            continue
        layer.update(*(_joined([(places, getattr(own, name)) for places, own in held], rows) for name in _HELD))


_HELD = ("keys", "values")


def _joined(parts: list[tuple[list[int], Tensor]], rows: int) -> Tensor:
    """Return the entries [B, K, S, D] of all rows, right-aligned."""
    first = parts[0][1]
    longest = max(entries.shape[2] for _, entries in parts)
    joined = first.new_zeros(rows, first.shape[1], longest, first.shape[3])
    for places, entries in parts:
        joined[torch.tensor(places, device=first.device), :, longest - entries.shape[2] :] = entries
    return joined
