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
