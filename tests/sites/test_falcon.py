"""Keys and values added to Falcon, against the model's own cache with the prefix in it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

ALIBI = {"alibi": True, "parallel_attn": False, "bias": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "one key for all heads": {},
    "a key for each head": {"multi_query": False},
    "a key for each group": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "alibi": {**ALIBI, "multi_query": False},
    "alibi, one key": ALIBI,
}


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prefix_is_what_a_cache_that_holds_it_is(
    variant: str,
    side: str,
    implementation: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    settings = {**VARIANTS[variant], "attn_implementation": implementation}
    base, ids = tiny_base("falcon", **settings), token_ids(2, 7)
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4 if side == "left" else [1] * 4 + [0] * 3])
    adapter = randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3))
    ours = AdaptedModel(base, [adapter])(input_ids=ids, attention_mask=mask).logits

    cache = DynamicCache()
    for layer, attention in enumerate(base.structure.attentions):
        pair = (adapter.tensors()[f"{attention.path}.{name}"].expand(2, -1, -1, -1) for name in ("keys", "values"))
        cache.update(*pair, layer)
    plain = tiny_base("falcon", **settings).model
    assert plain.config._attn_implementation == implementation
    longer = torch.cat([torch.ones(2, 3, dtype=mask.dtype), mask], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0) + 3  # padding takes none
    expected = plain(input_ids=ids, attention_mask=longer, past_key_values=cache, position_ids=positions).logits
    torch.testing.assert_close(ours[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_an_adapter_are_the_model_s_own(
    variant: str, implementation: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base = tiny_base("falcon", **VARIANTS[variant], attn_implementation=implementation)
    inputs = {"input_ids": token_ids(2, 7), "attention_mask": torch.tensor([[1] * 7, [0] * 3 + [1] * 4])}
    before = base.model(**inputs).logits
    model = AdaptedModel(base, [create_adapter(base, "prefix_tuning")])
    with model.route([None, None]):
        beside = model(**inputs).logits
    real = inputs["attention_mask"] == 1
    torch.testing.assert_close(beside[real], before[real], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_gated_prompts_have_keys_of_their_own_layer(
    variant: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base("falcon", **VARIANTS[variant]), token_ids(1, 1)  # one token: at place 0 nothing is rotated
    path = base.structure.attentions[-1].path
    module = base.model.get_submodule(path)
    fused: list[torch.Tensor] = []
    mixed: list[torch.Tensor] = []
    module.query_key_value.register_forward_hook(lambda module, inputs, output: fused.append(output))
    module.dense.register_forward_pre_hook(lambda module, inputs: mixed.append(inputs[0]))
    base.model(input_ids=ids)
    adapter = randomise(create_adapter(base, "llama_adapter", adapter_len=3, adapter_layers=1))
    del fused[1:], mixed[1:]  # measuring how the linear is laid out ran it as well
    AdaptedModel(base, [adapter])(input_ids=ids)

    prompt, gate = (adapter.tensors()[f"{path}.{name}"] for name in ("prompt", "gate"))
    query = module._split_heads(fused[0])[0].transpose(1, 2)
    keys, values = (part.transpose(1, 2) for part in module._split_heads(module.query_key_value(prompt[None]))[1:])
    weights = (query @ keys.mT / query.shape[-1] ** 0.5).softmax(-1)
    added = gate.tanh()[:, None, None] * (weights @ values)
    torch.testing.assert_close(mixed[1] - mixed[0], added.transpose(1, 2).flatten(2), rtol=1e-4, atol=1e-4)
