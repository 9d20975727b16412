"""A product with a frozen weight of which nothing is kept but its blocks.

The weight is unpacked for the forward pass and again for the backward pass; in between autograd holds the blocks alone.
The weight gets no gradient.

Shapes: x [..., d_in], y [..., d_out], W [d_out, d_in], or [d_in, d_out] where it is stored transposed (Conv1D).
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Unpacking(Protocol):
    """A weight that can be had whole."""

    def dequantize(self) -> Tensor:
        """Return the whole weight."""


def frozen_product(x: Tensor, weight: Unpacking, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
    """Return ``x W^T + bias``, or ``x W + bias`` with a transposed weight: what F.linear and torch.addmm return."""
    return _FrozenProduct.apply(x, weight, bias, transposed)  # type: ignore[no-any-return, no-untyped-call]


class _FrozenProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Unpacking, bias: Tensor | None, transposed: bool) -> Tensor:
        ctx.weight, ctx.transposed, ctx.dtype = weight, transposed, x.dtype
        whole = weight.dequantize()
        if transposed:
            return x @ whole if bias is None else torch.addmm(bias, x, whole)
        y = F.linear(x, whole, bias)
        return torch.ops.aten._unsafe_view(y, y.shape)  # type: ignore[no-any-return]  # a model may change it in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_y,) = gradients
        d_x = d_bias = None
        if ctx.needs_input_grad[0]:
            whole = ctx.weight.dequantize().to(d_y.dtype)
            d_x = (d_y @ (whole.t() if ctx.transposed else whole)).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            d_bias = d_y.flatten(0, -2).sum(0)
        return d_x, None, d_bias, None
