"""The gated product against the plain formula."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from petune.kernels.gated_product import ACTIVATIONS, Activation, gated_product

PLAIN = (F.silu, F.gelu, lambda x: F.gelu(x, approximate="tanh"), F.relu)
NAMES = ["silu", "gelu", "tanh gelu", "relu"]
PAIRS = list(zip(ACTIVATIONS, PLAIN, strict=True))


def problem(*shape: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.mark.parametrize(("activation", "plain"), PAIRS, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_are_those_of_the_plain_product(
    activation: Activation, plain: "type[F.silu]", dtype: torch.dtype
) -> None:
    gate, up, pull = problem(2, 3, 40, dtype=dtype)
    inputs = gate.requires_grad_(), up.requires_grad_()

    found, expected = gated_product(*inputs, activation), plain(gate) * up

    assert torch.equal(found, expected)
    ours, wanted = (torch.autograd.grad(value, inputs, pull) for value in (found, expected))
    for gradient, own in zip(ours, wanted, strict=True):
        torch.testing.assert_close(gradient, own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=NAMES)
def test_the_derivative_is_that_of_the_value(activation: Activation) -> None:
    gate, up, _ = problem(2, 5, dtype=torch.float64)
    torch.autograd.gradcheck(lambda *t: gated_product(*t, activation), (gate.requires_grad_(), up.requires_grad_()))


def test_inputs_and_the_incoming_gradient_are_left_alone() -> None:
    tensors = problem(3, 7, dtype=torch.float32)
    gate, up, pull = tensors
    before = [t.clone() for t in tensors]
    gated_product(gate.requires_grad_(), up.requires_grad_(), ACTIVATIONS[0]).backward(pull)
    assert all(torch.equal(now, then) for now, then in zip(tensors, before, strict=True))


def test_gate_and_up_alone_are_kept() -> None:
    gate, up, _ = problem(4, 9, dtype=torch.bfloat16)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        gated_product(gate.requires_grad_(), up, ACTIVATIONS[0])
    assert kept == [gate.data_ptr(), up.data_ptr()]
