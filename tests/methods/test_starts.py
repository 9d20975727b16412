"""Starts of layers; those of virtual tokens are tested with the methods."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.methods.starts import draw, drawn_linear, fit_last_layer


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_linear_starts_as_pytorch_s_own_but_from_the_given_generator() -> None:
    state = torch.get_rng_state()
    linear = drawn_linear(400, 300, seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn_linear(400, 300, seeded(1)).weight, linear.weight)
    assert not torch.equal(drawn_linear(400, 300, seeded(2)).weight, linear.weight)
    like = nn.Linear(400, 300)
    for ours, theirs in zip(linear.parameters(), like.parameters(), strict=True):
        assert ours.shape == theirs.shape
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.05)
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)


def test_every_parameter_is_drawn() -> None:
    lstm = nn.LSTM(3, 4, 2, bidirectional=True)
    before = [p.clone() for p in lstm.parameters()]
    draw(lstm, 0.25, seeded(0))
    for parameter, former in zip(lstm.parameters(), before, strict=True):
        assert not (parameter == former).any()
        assert parameter.abs().max() <= 0.25


@torch.no_grad()
def test_a_layer_is_fitted_by_the_smallest_change_of_its_weights() -> None:
    layer, inputs, wanted = drawn_linear(12, 5, seeded(0)), torch.randn(4, 12), torch.randn(4, 5)
    before, bias = layer.weight.clone(), layer.bias.clone()
    fit_last_layer(layer, inputs, wanted)
    torch.testing.assert_close(layer(inputs), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer.bias, bias)
    # The smallest change lies in the span of the inputs: directions orthogonal to all of them are left alone.
    orthogonal = torch.linalg.qr(inputs.T, mode="complete").Q[:, 4:]
    torch.testing.assert_close((layer.weight - before) @ orthogonal, torch.zeros(5, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "bert", "roberta", "bart", "opt"])
@pytest.mark.parametrize("method", ["prefix_tuning", "p_tuning_v2", "prompt_tuning", "p_tuning"])
def test_more_virtual_tokens_than_positions_are_refused(
    architecture: str, method: str, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture, max_position_embeddings=130 if architecture == "roberta" else 128)
    with pytest.raises(ConfigError, match=r"200 virtual tokens are more than the 12[89] positions.*num_virtual_tokens"):
        create_adapter(base, method, num_virtual_tokens=200)
