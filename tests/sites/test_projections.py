"""How an attention makes keys and values: measured layouts, and refusal of others."""

from collections.abc import Callable
from typing import final

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.errors import BaseModelError
from petune.sites.attention import read_keys_values
from petune.sites.projections import Projection, projections

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def made_by(model: PreTrainedModel) -> dict[str, Projection]:
    structure = Structure(model)
    return dict(projections(model, structure, structure.attentions))


@pytest.mark.parametrize(
    ("architecture", "layout"), [("llama", "separate"), ("gpt2", "blocks"), ("gpt_neox", "groups")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_are_told(architecture: str, layout: str, dtype: torch.dtype, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture, dtype=dtype)
    assert {projection.layout for projection in made_by(base.model).values()} == {layout}
    assert base.model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in base.model.modules())


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@torch.no_grad()
def test_values_are_those_the_attention_gets(key_value_heads: int) -> None:
    config = AutoConfig.for_model("phi3", **SIZES, num_key_value_heads=key_value_heads, vocab_size=64, pad_token_id=0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    structure = Structure(model)
    first = structure.attentions[0]
    vectors = torch.randn(5, 32)
    seen_keys, seen_values = read_keys_values(model, (first.path,), vectors)[first.path]
    attention, norm = model.get_submodule(first.path), model.get_submodule("model.layers.0.input_layernorm")
    keys, values = made_by(model)[first.path](attention, norm(vectors), 4, 8)
    torch.testing.assert_close(values, seen_values)
    torch.testing.assert_close(keys[:, :1], seen_keys[:, :1])  # at position 0 nothing is rotated


@final
class Flipped(nn.Module):
    """Gives the features of a linear in another order."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.linear(x)
        return output.flip(-1)


def test_a_layout_of_another_kind_is_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("gpt2")
    attention = base.model.get_submodule("transformer.h.0.attn")
    attention.c_attn = Flipped(attention.get_submodule("c_attn"))
    with pytest.raises(BaseModelError, match=r"'transformer\.h\.0\.attn\.c_attn\.linear' makes queries, keys and"):
        made_by(base.model)


def test_keys_and_values_of_different_inputs_are_refused() -> None:
    narrow = {"intra_bottleneck_size": 16, "embedding_size": 16}
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model("mobilebert", **SIZES, **narrow))
    with pytest.raises(BaseModelError, match="makes keys of inputs 16 wide and values of inputs 32 wide"):
        made_by(model)


def test_only_shapes_are_known_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=4))
    (projection,) = made_by(model).values()
    assert (projection.linears, projection.width) == (("c_attn",), 32)
