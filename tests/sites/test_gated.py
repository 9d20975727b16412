"""Gated attention beside prefixes and other slots: rows, caches, and gradients."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.training.recomputation import gradient_checkpointing

ROWS = ("gated", None, ["prefix", "gated"], "layerwise", ["lora", "gated", "layerwise"], ["gated", "prompt"], "prefix")


@pytest.fixture(params=["llama", "gpt2", "gpt_neox"])
def mixed(
    request: pytest.FixtureRequest, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> AdaptedModel:
    base = tiny_base(request.param)
    made = [
        create_adapter(base, "llama_adapter", name="gated", adapter_len=5),
        create_adapter(base, "llama_adapter", name="layerwise", adapter_len=2, shared_gate=True, adapter_layers=1),
        create_adapter(base, "prefix_tuning", name="prefix", num_virtual_tokens=3),
        create_adapter(base, "prompt_tuning", name="prompt", num_virtual_tokens=4),
        create_adapter(base, "lora", name="lora"),
    ]
    return AdaptedModel(base, [randomise(adapter, seed=i, scale=0.3) for i, adapter in enumerate(made)])


def padded(token_ids: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = token_ids(len(ROWS), 8)
    mask = torch.ones_like(ids)
    for row in range(len(ROWS)):
        mask[row, :row] = 0
    return ids, mask


@torch.no_grad()
def test_rows_of_a_mixed_batch_equal_those_alone(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids, mask = padded(token_ids)
    with mixed.route(ROWS):
        together = mixed(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    for i, row in enumerate(ROWS):
        with mixed.route([row]):
            expected = mixed(input_ids=ids[i : i + 1, i:]).logits[0]
        torch.testing.assert_close(together[i, i:], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[3], atol=1e-2)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
@torch.no_grad()
def test_cached_generation_equals_uncached_and_alone(
    mixed: AdaptedModel, options: dict[str, object], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids, mask = padded(token_ids)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with mixed.route(ROWS):
        cached = mixed.model.generate(input_ids=ids, attention_mask=mask, **settings, **options)
    uncached = {"use_cache": False, **{k: v for k, v in options.items() if k != "cache_implementation"}}
    for i, row in enumerate(ROWS):
        alone = ids[i : i + 1, i:]
        with mixed.route([row]):
            expected = mixed.model.generate(
                input_ids=alone, attention_mask=torch.ones_like(alone), **settings, **uncached
            )
        assert torch.equal(cached[i, 8:], expected[0, alone.shape[1] :])


def test_gradients_of_recomputed_stacks(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids, mask = padded(token_ids)
    mixed.train()
    for adapter in mixed.adapters.values():
        adapter.set_trainable(True)
    found = []
    for checkpointing in (False, True):
        recompute = gradient_checkpointing(mixed.model) if checkpointing else nullcontext()
        with mixed.route(ROWS), recompute:
            mixed(input_ids=ids, attention_mask=mask).logits.square().mean().backward()
        trained = [p for adapter in mixed.adapters.values() for p in adapter.parameters()]
        found.append([p.grad for p in trained])
        for parameter in trained:
            parameter.grad = None
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_model_gets_its_own_attention_back(mixed: AdaptedModel) -> None:
    for name in ("prefix", "prompt", "gated"):
        mixed.detach(name)
    assert mixed.model.config._attn_implementation == "petune"
    mixed.detach("layerwise")
    assert mixed.model.config._attn_implementation == "sdpa"
