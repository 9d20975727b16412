"""Keys and values added to BLOOM, against the model's own cache with the prefix in it."""

from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base


@torch.no_grad()
@pytest.mark.parametrize("heads", [4, 6])  # slopes of heads that are no power of two are made otherwise
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_prefix_is_what_a_cache_that_holds_it_is(
    side: str,
    heads: int,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    sizes = {"n_head": heads, "hidden_size": 8 * heads}
    base, ids = tiny_base("bloom", **sizes), token_ids(2, 7)
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4 if side == "left" else [1] * 4 + [0] * 3])
    adapter = randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3))
    ours = AdaptedModel(base, [adapter])(input_ids=ids, attention_mask=mask).logits

    cache = DynamicCache()
    for layer, attention in enumerate(base.structure.attentions):
        pair = (adapter.tensors()[f"{attention.path}.{name}"].expand(2, -1, -1, -1) for name in ("keys", "values"))
        cache.update(*pair, layer)
    plain = tiny_base("bloom", **sizes).model
    longer = torch.cat([torch.ones(2, 3, dtype=mask.dtype), mask], 1)
    expected = plain(input_ids=ids, attention_mask=longer, past_key_values=cache).logits
    torch.testing.assert_close(ours[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_model_gets_its_own_attention_back(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base("bloom"), token_ids(2, 7)
    before = base.model(input_ids=ids).logits
    model = AdaptedModel(base)
    with model.fast_training():
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)
    model.attach(create_adapter(base, "prefix_tuning"))
    assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)
    model.detach("default")
    assert torch.equal(base.model(input_ids=ids).logits, before)
    assert all("forward" not in module.__dict__ for module in base.model.modules())


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_and_without_a_cache_is_the_same(
    beams: int,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base = tiny_base("bloom")
    model = AdaptedModel(base, [randomise(create_adapter(base, "prefix_tuning"))])
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "num_beams": beams}
    with model.route(["default", None, "default"]):
        cached, plain = (
            model.model.generate(input_ids=token_ids(3, 7), use_cache=cache, **settings) for cache in (True, False)
        )
    assert torch.equal(cached, plain)
