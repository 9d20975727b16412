"""Bottleneck adapters: the formula, where they sit, their start, their settings."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.methods.bottleneck import START_STD, BottleneckConfig, BottleneckSlot


def test_forward_is_the_formula_of_the_paper() -> None:
    slot = BottleneckSlot(6, BottleneckConfig(bottleneck_size=3), torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for parameter in slot.parameters():
        torch.nn.init.normal_(parameter)
    x, y = torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    down, up = slot.down_weight.double(), slot.up_weight.double()
    inner = F.gelu(y.double() @ down.t() + slot.down_bias.double())
    expected = y.double() + inner @ up.t() + slot.up_bias.double()
    torch.testing.assert_close(slot(x, y).double(), expected, rtol=1e-5, atol=1e-5)
    assert slot.merged_weight(torch.ones(8, 8)) is None


def test_start_is_a_truncated_normal_and_zero_biases() -> None:
    slot = BottleneckSlot(500, BottleneckConfig(), torch.Generator().manual_seed(0))
    for weight in (slot.down_weight, slot.up_weight):
        assert weight.abs().max() <= 2 * START_STD
        assert weight.std().item() == pytest.approx(0.88 * START_STD, rel=0.05)  # of a normal cut at two deviations
    assert not slot.down_bias.any()
    assert not slot.up_bias.any()


@pytest.mark.parametrize(
    ("architecture", "attention", "mlp"),
    [
        ("llama", "self_attn.o_proj", "mlp.down_proj"),
        ("gpt2", "attn.c_proj", "mlp.c_proj"),
        ("gpt_neox", "attention.dense", "mlp.dense_4h_to_h"),
        ("bloom", "self_attention.dense", "mlp.dense_4h_to_h"),
    ],
)
def test_they_sit_behind_the_last_projection_of_each_sub_layer(
    architecture: str, attention: str, mlp: str, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture)
    both = create_adapter(base, "bottleneck").slots
    assert sorted(both) == sorted(f"{block}.{path}" for block in base.structure.blocks for path in (attention, mlp))
    one = create_adapter(base, "bottleneck", placement="pfeiffer").slots
    assert sorted(one) == sorted(f"{block}.{mlp}" for block in base.structure.blocks)


@torch.no_grad()
def test_nearly_the_identity_at_the_start(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(), token_ids(3, 9)
    before = base.model(input_ids=ids, labels=ids).loss
    model = AdaptedModel(base, [create_adapter(base, "bottleneck")])
    assert abs(model.model(input_ids=ids, labels=ids).loss - before) < 1e-3


def test_sizes(tiny_base: Callable[..., Base]) -> None:
    (slot, *_) = create_adapter(tiny_base(), "bottleneck", bottleneck_size=None, reduction_factor=4).slots.values()
    assert dict(slot.named_parameters())["down_weight"].shape == (8, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction_factor": 4}, "give one of bottleneck_size and reduction_factor"),
        ({"non_linearity": "gleu"}, r"non_linearity is 'gleu'.*Did you mean 'gelu'\?"),
        ({"placement": "everywhere"}, "'houlsby' or 'pfeiffer'"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "bottleneck", **options)
