"""Rotary position embedding of queries and keys, with its backward written out.

Su et al.: "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021), https://arxiv.org/abs/2104.09864, in
the order of transformers' models: the halves of a head make the pairs that are turned.

    y = t * cos + turn(t) * sin,   turn(t) = (-t_2, t_1) for the halves t_1, t_2 of t

Nothing but the angles is kept for the backward pass. Results lie in memory as the next step reads them: by head on the
way to the attention, by token on the way back to the projections.

Shapes: B rows, H heads, T tokens, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Return the turned queries [B, H, T, D] and keys [B, K, T, D].

    Args:
        query: [B, H, T, D].
        key: [B, K, T, D].
        cos: of the angles [B or 1, 1, T, D].
        sin: of the angles, of that shape.
    """
    return _Rotation.apply(query, key, cos, sin)  # type: ignore[no-any-return, no-untyped-call]


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        first, second = sin.chunk(2, -1)
        signed = torch.cat([-first, second], -1)
        return tuple(
            _turned(t, cos, signed, torch.empty(t.shape, dtype=t.dtype, device=t.device)) for t in (query, key)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        first, second = sin.chunk(2, -1)
        signed = torch.cat([second, -first], -1)
        found = []
        for gradient, wanted in zip(gradients, ctx.needs_input_grad, strict=False):
            rows, heads, tokens, width = gradient.shape
            by_token = gradient.new_empty(rows, tokens, heads, width).transpose(1, 2)
            found.append(_turned(gradient, cos, signed, by_token) if wanted else None)
        return *found, None, None


def _turned(t: Tensor, cos: Tensor, signed: Tensor, out: Tensor) -> Tensor:
    """Return t * cos + (t with its halves exchanged) * signed, in ``out``."""
    torch.mul(t, cos, out=out)
    return out.addcmul_(t.roll(t.shape[-1] // 2, -1), signed)
