"""The product ``act(gate) * up`` of a gated feed-forward layer, with its backward written out.

Kept for the backward pass are ``gate`` and ``up`` alone; act(gate) is computed again, which takes less time than a
thousandth of the layer's products and frees a third of what the layer would keep.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function, and its derivative's product with a gradient.

    Attributes:
        value: of x.
        pull: takes the gradient and x, and returns the gradient with respect to x, where the former stood.
    """

    value: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


def _silu_pull(gradient: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward.grad_input(gradient, x, grad_input=gradient)  # type: ignore[no-any-return]


def _gelu(approximate: str) -> Activation:
    def pull(gradient: Tensor, x: Tensor) -> Tensor:
        grad = torch.ops.aten.gelu_backward
        return grad.grad_input(gradient, x, approximate=approximate, grad_input=gradient)  # type: ignore[no-any-return]

    return Activation(lambda x: F.gelu(x, approximate=approximate), pull)


def _relu_pull(gradient: Tensor, x: Tensor) -> Tensor:
    return gradient.masked_fill_(x <= 0, 0.0)


ACTIVATIONS = (Activation(F.silu, _silu_pull), _gelu("none"), _gelu("tanh"), Activation(F.relu, _relu_pull))
"""Those that gated layers are built with."""


def gated_product(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """Return ``activation(gate) * up``, all of one shape."""
    return _GatedProduct.apply(gate, up, activation)  # type: ignore[no-any-return, no-untyped-call]


class _GatedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation.value(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        gate, up = ctx.saved_tensors
        d_gate = ctx.activation.pull(gradient * up, gate) if ctx.needs_input_grad[0] else None
        d_up = ctx.activation.value(gate).mul_(gradient) if ctx.needs_input_grad[1] else None
        return d_gate, d_up, None
