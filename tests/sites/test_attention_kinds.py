"""Keys and values added to the attentions of encoders and encoder-decoders, against the formula written out."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

SHIFTED = ("bert", "modernbert")


def formula(prefixes: dict[nn.Module, tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, None]]:
    """Return an attention that puts each module's prefix [K, P, D] in front of its keys and values."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        own_key, own_value = (t.expand(len(key), -1, -1, -1) for t in prefixes[module])
        length = own_key.shape[2]
        scaling = options.get("scaling")
        scores = query @ torch.cat([own_key, key], 2).mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if options.get("position_bias") is not None:
            scores = scores + F.pad(options["position_bias"], (length, 0))
        if mask is not None:
            scores = scores + F.pad(mask, (length, 0))
        return (scores.softmax(-1) @ torch.cat([own_value, value], 2)).transpose(1, 2), None

    return attend


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "t5", "bart"])
def test_the_formula_written_out(
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_base(architecture)
    adapter = randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3))
    inputs = {"input_ids": token_ids(2, 7), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    if base.task == "seq2seq_lm":
        inputs["decoder_input_ids"] = token_ids(2, 5, seed=1)
    ours = AdaptedModel(base, [adapter])(**inputs).logits

    plain = tiny_base(architecture).model
    tensors = adapter.tensors()
    prefixes = {
        plain.get_submodule(a.path): (tensors[f"{a.path}.keys"], tensors[f"{a.path}.values"])
        for a in base.structure.attentions
    }
    home = import_module(type(plain).__module__)
    monkeypatch.setattr(home, "eager_attention_forward", formula(prefixes))
    plain.set_attn_implementation("eager")
    if architecture in SHIFTED:  # real tokens stand behind the virtual ones
        inputs["position_ids"] = torch.arange(3, 10)[None]
    expected = plain(**inputs).logits
    real = torch.ones(expected.shape[:2], dtype=torch.bool)
    if base.task != "seq2seq_lm":
        real = inputs["attention_mask"] == 1
    torch.testing.assert_close(ours[real], expected[real], rtol=1e-4, atol=1e-4)
