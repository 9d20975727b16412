"""A cache with room holds what transformers' own holds, whatever is done to it, and copies nothing for a new token."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from petune.backbone import growing_cache as module
from petune.backbone.growing_cache import GrowingLayer, growing_cache, joined_on_the_left

TINY = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 9}


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**TINY))


def entries(tokens: int, seed: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(rows, 2, tokens, 4, generator=generator) for _ in range(2))
    return keys, values


def same(ours: GrowingLayer, expected: tuple[torch.Tensor, torch.Tensor]) -> bool:
    return torch.equal(ours.keys, expected[0]) and torch.equal(ours.values, expected[1])


CHANGES: list[Callable[[DynamicCache], object]] = [
    lambda cache: None,
    lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])),
    lambda cache: cache.crop(-2),
    lambda cache: cache.batch_select_indices(torch.tensor([2, 1, 0])),
    lambda cache: cache.reset(),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("room", [1, 3, 64])
def test_it_holds_what_transformers_cache_holds(
    change: Callable[[DynamicCache], object], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM", room)
    ours, theirs = growing_cache(llama()), DynamicCache()
    assert ours is not None
    for step in range(9):
        new = entries(5 if step == 0 else 1, step)
        if step == 4:
            change(ours)
            change(theirs)
        for layer in range(2):
            expected = theirs.update(*new, layer)
            assert all(map(torch.equal, ours.update(*new, layer), expected))
        assert ours.get_seq_length() == theirs.get_seq_length()
    assert isinstance(ours.layers[0], GrowingLayer)
    assert same(ours.layers[0], (theirs.layers[0].keys, theirs.layers[0].values))


def test_rows_that_become_more_get_room_of_their_own() -> None:
    layer = GrowingLayer()
    keys, _ = layer.update(*entries(3, 0))
    before = keys.clone()
    layer.batch_repeat_interleave(2)
    more, _ = layer.update(*entries(1, 1, rows=6))
    assert torch.equal(more[:, :, :3], before.repeat_interleave(2, 0))
    assert torch.equal(keys, before)


def test_a_new_token_copies_none_of_the_others() -> None:
    layer = GrowingLayer()
    first, _ = layer.update(*entries(3, 0))
    second, _ = layer.update(*entries(1, 1))
    assert second.data_ptr() == first.data_ptr()
    assert second.shape[2] == 4


def test_models_that_keep_something_else_want_their_own() -> None:
    t5 = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert growing_cache(T5ForConditionalGeneration(t5)) is None
    assert growing_cache(MistralForCausalLM(MistralConfig(**TINY, num_key_value_heads=1, sliding_window=4))) is None


@pytest.mark.parametrize("told", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_a_model_that_is_told_how_to_keep_them_does_as_told(told: dict[str, Any]) -> None:
    model = llama()
    model.generation_config.update(**told)
    assert growing_cache(model) is None


def test_shorter_rows_are_joined_behind_zeros_in_the_places_they_name() -> None:
    cache, parts = growing_cache(llama()), []
    assert cache is not None
    for places, tokens in (([2, 0], 5), ([1], 3)):
        part = growing_cache(llama())
        assert part is not None
        for layer in range(2):
            part.update(*entries(tokens, layer, rows=len(places)), layer)
        parts.append((places, part))
    joined_on_the_left(cache, parts)
    keys = cache.layers[1].keys
    assert torch.equal(keys[2], parts[0][1].layers[1].keys[0])
    assert torch.equal(keys[0], parts[0][1].layers[1].keys[1])
    assert torch.equal(keys[1], torch.nn.functional.pad(parts[1][1].layers[1].keys[0], (0, 0, 2, 0)))
