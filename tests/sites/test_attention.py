"""The attention site: several prefixes side by side, generation, and giving the model its attention back."""

from collections.abc import Callable

import pytest
import torch
from transformers import GptOssConfig, GptOssForCausalLM

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.sites.attention import read_keys_values
from petune.sites.attention_switch import IMPLEMENTATION
from petune.sites.sites import Sites

ROWS = ("short", None, "long", "prompt", ["lora", "prompt"], "lora")


@pytest.fixture(params=["llama", "gpt2", "gpt_neox", "deepseek_v3"])
def mixed(
    request: pytest.FixtureRequest, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> AdaptedModel:
    base = tiny_base(request.param)
    made = [
        create_adapter(base, "prefix_tuning", name="short", num_virtual_tokens=2),
        create_adapter(base, "prefix_tuning", name="long", num_virtual_tokens=9),
        create_adapter(base, "prompt_tuning", name="prompt", num_virtual_tokens=4),
        create_adapter(base, "lora", name="lora"),
    ]
    return AdaptedModel(base, [randomise(adapter, seed=i) for i, adapter in enumerate(made)])


def padded(token_ids: Callable[..., torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = token_ids(len(ROWS), 8)
    mask = torch.ones_like(ids)
    for row in range(len(ROWS)):
        mask[row, slice(0, row) if side == "left" else slice(8 - row, 8)] = 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(
    mixed: AdaptedModel, side: str, token_ids: Callable[..., torch.Tensor]
) -> None:
    ids, mask, positions = padded(token_ids, side)
    with mixed.route(ROWS):
        together = mixed(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for i, row in enumerate(ROWS):
        alone = ids[i][mask[i].bool()][None]
        with mixed.route([row]):
            expected = mixed(input_ids=alone).logits[0]
        torch.testing.assert_close(together[i][mask[i].bool()], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}], ids=str)
@torch.no_grad()
def test_cached_generation_of_mixed_rows_equals_uncached_and_alone(
    mixed: AdaptedModel, options: dict[str, object], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids, mask, _ = padded(token_ids, "left")
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with mixed.route(ROWS):
        cached = mixed.model.generate(input_ids=ids, attention_mask=mask, **settings, **options)
    uncached = {**options, "use_cache": False}
    uncached.pop("cache_implementation", None)
    for i, row in enumerate(ROWS):
        alone = ids[i][mask[i].bool()][None]
        with mixed.route([row]):
            expected = mixed.model.generate(
                input_ids=alone, attention_mask=torch.ones_like(alone), **settings, **uncached
            )
        assert torch.equal(cached[i, 8:], expected[0, alone.shape[1] :])


@torch.no_grad()
def test_a_cache_kept_over_turns_equals_recomputing(
    mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(len(ROWS), 12)
    with mixed.route(ROWS):
        whole = mixed(input_ids=ids).logits
        cache, turns = None, []
        for turn in ids.split(4, dim=1):
            answer = mixed(input_ids=turn, past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            turns.append(answer.logits)
    torch.testing.assert_close(torch.cat(turns, 1), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_values_kept_between_passes_follow_the_parameters(
    mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(2, 6)
    mixed.activate("prompt")
    before = mixed(input_ids=ids).logits
    assert torch.equal(mixed(input_ids=ids).logits, before)
    for parameter in mixed.adapter("prompt").parameters():
        parameter.neg_()
    assert not torch.allclose(mixed(input_ids=ids).logits, before, atol=1e-3)


@torch.no_grad()
def test_the_model_gets_its_own_attention_back(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    assert mixed.model.config._attn_implementation == "petune"
    for name in tuple(mixed.adapters):
        mixed.detach(name)
    assert mixed.model.config._attn_implementation == "sdpa"
    assert not mixed.model._forward_pre_hooks


@torch.no_grad()
def test_keys_and_values_read_are_those_of_the_cache(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(), token_ids(1, 7)
    paths = tuple(attention.path for attention in base.structure.attentions)
    cache = base.model(input_ids=ids, use_cache=True).past_key_values
    for layer, (keys, values) in enumerate(read_keys_values(base.model, paths, ids[0]).values()):
        torch.testing.assert_close(keys[None], cache.layers[layer].keys)
        torch.testing.assert_close(values[None], cache.layers[layer].values)


@pytest.mark.parametrize("block", ["fast_training", "fast_inference"])
def test_ours_is_lent_on_a_cpu_only(
    block: str, tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AdaptedModel(tiny_base("llama"))
    own = model.model.config._attn_implementation
    with getattr(model, block)():
        assert model.model.config._attn_implementation == IMPLEMENTATION
    monkeypatch.setattr(type(model.model), "device", torch.device("cuda"))
    with getattr(model, block)():
        assert model.model.config._attn_implementation == own


@torch.no_grad()
def test_a_model_with_attention_sinks_answers_the_same(token_ids: Callable[..., torch.Tensor]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 16}
    config = GptOssConfig(
        vocab_size=288, num_hidden_layers=2, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, **sizes
    )
    model = GptOssForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.fill_(2.0)
    inputs = {"input_ids": token_ids(2, 9), "attention_mask": torch.tensor([[1] * 9, [0] * 4 + [1] * 5])}
    expected = model(**inputs).logits
    with Sites(model).fast_inference():
        assert model.config._attn_implementation == IMPLEMENTATION
        found = model(**inputs).logits
    real = inputs["attention_mask"] == 1
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)
