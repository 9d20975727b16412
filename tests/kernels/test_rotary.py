"""The rotary embedding against transformers' own."""

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from petune.kernels.rotary import rotate


def problem(dtype: torch.dtype, *, symmetric: bool = True) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 5, heads, 8, generator=generator, dtype=torch.float64) for heads in (4, 2))
    angles = torch.randn(3, 5, 8, generator=generator, dtype=torch.float64)
    if symmetric:
        angles = torch.cat([angles[..., :4], angles[..., :4]], -1)
    return [t.to(dtype) for t in (query.transpose(1, 2), key.transpose(1, 2), angles.cos(), angles.sin())]


@pytest.mark.parametrize("symmetric", [True, False], ids=["pairs share an angle", "any angles"])
@pytest.mark.parametrize("rows", [3, 1], ids=["positions of each row", "positions of all rows"])
def test_values_and_gradients_equal_those_of_transformers(symmetric: bool, rows: int) -> None:
    query, key, cos, sin = problem(torch.float64, symmetric=symmetric)
    cos, sin = cos[:rows], sin[:rows]
    inputs = query.requires_grad_(), key.requires_grad_()

    found, expected = rotate(*inputs, cos[:, None], sin[:, None]), apply_rotary_pos_emb(*inputs, cos, sin)

    pulls = [torch.randn_like(t) for t in expected]
    ours, wanted = (torch.autograd.grad(values, inputs, pulls) for values in (found, expected))
    for own, theirs in zip((*found, *ours), (*expected, *wanted), strict=True):
        torch.testing.assert_close(own, theirs)


def test_bfloat16_is_not_farther_from_the_truth_than_transformers() -> None:
    query, key, cos, sin = problem(torch.bfloat16)
    exact = apply_rotary_pos_emb(*(t.double() for t in (query, key, cos, sin)))
    found, plain = rotate(query, key, cos[:, None], sin[:, None]), apply_rotary_pos_emb(query, key, cos, sin)
    for own, theirs, truth in zip(found, plain, exact, strict=True):
        assert (own.double() - truth).norm() <= (theirs.double() - truth).norm()


def test_a_key_without_a_gradient_gets_none() -> None:
    query, key, cos, sin = problem(torch.float32)
    turned, other = rotate(query.requires_grad_(), key, cos[:, None], sin[:, None])
    (turned.sum() + other.sum()).backward()
    assert query.grad is not None
    assert key.grad is None
