"""Keys and values added to DeBERTa-v2, against the formula written out token by token."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

OWN = {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1, "max_relative_positions": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "as v3": {},
    "as v2, with a convolution": {"conv_kernel_size": 3},
    "linears of their own, distances without buckets": OWN,
    "queries see distances": {"pos_att_type": ["c2p"]},
    "keys see distances": {**OWN, "pos_att_type": ["p2c"]},
    "without distances": {"relative_attention": False, "pos_att_type": None, "position_biased_input": True},
}
MASK = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])


def formula(prefixes: dict[nn.Module, tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, None]]:
    """Return an attention that puts each module's prefix [H, P, D], at no distance, in front of its keys and values."""

    def forward(
        self: DisentangledSelfAttention,
        hidden_states: Tensor,
        attention_mask: Tensor,
        *unused: Any,
        relative_pos: Tensor,
        rel_embeddings: Tensor,
        **options: Any,
    ) -> tuple[Tensor, None]:
        def by_head(linear: nn.Module, inputs: Tensor) -> Tensor:
            return linear(inputs).unflatten(-1, (self.num_attention_heads, -1))

        query, key, value = (by_head(x, hidden_states) for x in (self.query_proj, self.key_proj, self.value_proj))
        scores = torch.einsum("bihd,bjhd->bhij", query, key)
        types = self.pos_att_type if self.relative_attention else ()
        for i in range(scores.shape[2]):
            for j in range(scores.shape[3]):
                limit = len(rel_embeddings) - 1 if types else 0
                place = min(max(int(relative_pos[0, i, j]) + self.pos_ebd_size, 0), limit) if types else 0
                if "c2p" in types:
                    linear = self.key_proj if self.share_att_key else self.pos_key_proj
                    scores[:, :, i, j] += (query[:, i] * by_head(linear, rel_embeddings[place])).sum(-1)
                if "p2c" in types:
                    linear = self.query_proj if self.share_att_key else self.pos_query_proj
                    scores[:, :, i, j] += (key[:, j] * by_head(linear, rel_embeddings[place])).sum(-1)
        own_key, own_value = prefixes[self]
        scores = torch.cat([torch.einsum("bihd,hpd->bhip", query, own_key), scores], -1)
        seen = nn.functional.pad(attention_mask.bool(), (own_key.shape[1], 0), value=True)
        scores = scores / (query.shape[-1] * (1 + len(types))) ** 0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        values = torch.cat([own_value.expand(len(value), -1, -1, -1), value.transpose(1, 2)], 2)
        return (weights @ values).transpose(1, 2).flatten(2), None

    return forward


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_formula_written_out(
    variant: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_base("deberta-v2", **VARIANTS[variant])
    inputs = {"input_ids": token_ids(2, 7), "attention_mask": MASK}
    adapter = randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3))
    ours = AdaptedModel(base, [adapter])(**inputs).logits

    plain = tiny_base("deberta-v2", **VARIANTS[variant]).model
    tensors = adapter.tensors()
    prefixes = {
        plain.get_submodule(a.path): (tensors[f"{a.path}.keys"], tensors[f"{a.path}.values"])
        for a in base.structure.attentions
    }
    monkeypatch.setattr(DisentangledSelfAttention, "forward", formula(prefixes))
    expected = plain(**inputs, position_ids=torch.arange(3, 10)[None]).logits  # behind the virtual ones
    torch.testing.assert_close(ours[MASK == 1], expected[MASK == 1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_without_an_adapter_are_the_model_s_own(
    variant: str, tiny_base: Callable[..., Base], token_ids: Callable[..., Tensor]
) -> None:
    base = tiny_base("deberta-v2", **VARIANTS[variant])
    inputs = {"input_ids": token_ids(2, 7), "attention_mask": MASK}
    before = base.model(**inputs).logits
    model = AdaptedModel(base, [create_adapter(base, "p_tuning_v2")])
    with model.route([None, None]):
        beside = model(**inputs).logits
    torch.testing.assert_close(beside[MASK == 1], before[MASK == 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["lora", "bitfit", "bottleneck"])  # the latter two change a norm of the distances
def test_distances_go_through_each_row_s_adapters(
    method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., Tensor]
) -> None:
    base, ids = tiny_base("deberta-v2"), token_ids(4, 7)  # of 8 distances, which 4 rows could share out
    model = AdaptedModel(base, [randomise(create_adapter(base, method, name=n), seed=len(n)) for n in ("one", "other")])
    with model.route(["one", None, "other", "one"]):
        together = model(input_ids=ids).logits
    for row, names in enumerate([("one",), (), ("other",), ("one",)]):
        model.activate(*names)
        torch.testing.assert_close(model(input_ids=ids[row : row + 1]).logits[0], together[row], rtol=1e-4, atol=1e-4)
