"""The norm against the plain formula."""

import pytest
import torch
from torch import Tensor

from petune.kernels.rms_norm import rms_norm


def formula(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (weight + offset)


def as_models_do(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def problem(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, pull = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = 1 + 0.3 * torch.randn(shape[-1], generator=generator, dtype=torch.float64)
    return x.to(dtype), pull.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (2, 1, 3, 8), (1, 1), (0, 8), (300, 1000)], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_values_and_gradients_equal_the_formula(shape: tuple[int, ...], offset: float) -> None:
    x, pull, weight = problem(*shape, dtype=torch.float32)
    exact = [t.double().requires_grad_() for t in (x, weight)]
    ours = [t.clone().requires_grad_() for t in (x, weight)]

    expected = formula(*exact, 1e-5, offset)
    found = rms_norm(*ours, 1e-5, offset)

    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(expected, exact, pull.double())
    for gradient, own in zip(torch.autograd.grad(found, ours, pull), wanted, strict=True):
        torch.testing.assert_close(gradient.double(), own, rtol=1e-5, atol=1e-4)


def test_the_derivative_is_that_of_the_value() -> None:
    x, _, weight = problem(2, 3, 5, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x.requires_grad_(), weight.requires_grad_()))


def test_bfloat16_is_not_farther_from_the_truth_than_what_models_compute() -> None:
    x, pull, weight = problem(64, 96, dtype=torch.bfloat16)
    exact = x.double().requires_grad_()
    expected = formula(exact, weight.double(), 1e-5, 0.0)
    (wanted,) = torch.autograd.grad(expected, exact, pull.double())
    distances = []
    for norm in (as_models_do, rms_norm):
        own = x.clone().requires_grad_()
        found = norm(own, weight, 1e-5)
        (gradient,) = torch.autograd.grad(found, own, pull)
        distances.append([(found.double() - expected).norm(), (gradient.double() - wanted).norm()])
    (plain_value, plain_gradient), (value, gradient) = distances
    assert value <= plain_value
    assert gradient <= plain_gradient


def test_each_row_stands_alone_and_layout_does_not_matter() -> None:
    x, _, weight = problem(5, 4, 8, dtype=torch.float32)
    together = rms_norm(x, weight, 1e-6)
    assert torch.equal(rms_norm(x[2:3], weight, 1e-6), together[2:3])
    assert torch.equal(rms_norm(x.transpose(0, 1), weight, 1e-6), together.transpose(0, 1))


def test_only_the_input_and_a_number_for_each_token_are_kept() -> None:
    x, _, weight = problem(6, 50, dtype=torch.bfloat16)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rms_norm(x.requires_grad_(), weight, 1e-6)
    assert [tuple(t.shape) for t in kept] == [(6, 50), (50,), (6, 1)]
    assert kept[0].data_ptr() == x.data_ptr()
