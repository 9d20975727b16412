"""Root-mean-square normalisation with its backward written out.

    y = x / sqrt(mean(x^2) + eps) * (w + offset)

Computed in fp32 from first to last and rounded once; kept for the backward pass are x, as the model has it anyway, and
one number for each token. Rows are worked on in portions whose fp32 copies stay in a core's cache.

Shapes: N tokens, d width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_PORTION = 1 << 17
"""Numbers of a portion: half a megabyte in fp32."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """Return the normalised ``x`` [..., d] in its own precision.

    Args:
        x: [..., d].
        weight: w [d].
        eps: added to the mean square.
        offset: added to the weight; 1 where a model stores by how much a factor exceeds one.
    """
    return _RMSNorm.apply(x, weight, eps, offset)  # type: ignore[no-any-return, no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        wide = torch.promote_types(x.dtype, torch.float32)
        factor = weight.to(wide) + offset
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        y_flat = y.view(flat.shape)
        inverse = torch.empty((len(flat), 1), dtype=wide, device=x.device)
        for rows, (part,) in _portions(flat, wide, 1):
            part.copy_(flat[rows])
            length = torch.linalg.vector_norm(part, dim=-1, keepdim=True)
            torch.rsqrt(length.square_().div_(x.shape[-1]).add_(eps), out=inverse[rows])
            y_flat[rows] = part.mul_(inverse[rows]).mul_(factor)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, inverse = ctx.saved_tensors
        flat, d_flat = x.reshape(-1, x.shape[-1]), d_y.reshape(-1, x.shape[-1])
        factor = weight.to(inverse.dtype) + ctx.offset
        d_x = torch.empty(flat.shape, dtype=x.dtype, device=x.device)
        d_factor = torch.zeros_like(factor)
        for rows, (given, pull) in _portions(flat, inverse.dtype, 2):
            given.copy_(flat[rows])
            pull.copy_(d_flat[rows])
            scale = inverse[rows]
            if ctx.needs_input_grad[1]:
                d_factor += ((given * scale) * pull).sum(0)
            pull.mul_(factor)
            # dx = s g - x s^3 mean(g x)   with s = 1 / sqrt(mean(x^2) + eps) and g = dy (w + offset)
            along = torch.linalg.vecdot(pull, given)[:, None].mul_(scale.pow(3)).div_(-x.shape[-1])
            d_x[rows] = pull.mul_(scale).addcmul_(given, along)
        wanted = ctx.needs_input_grad
        return d_x.view(x.shape) if wanted[0] else None, d_factor.to(weight.dtype) if wanted[1] else None, None, None


def _portions(flat: Tensor, wide: torch.dtype, copies: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield which rows of ``flat`` [N, d] come next, and so many arrays of their shape to work in."""
    rows = max(1, _PORTION // max(1, flat.shape[1]))
    space = [torch.empty((min(rows, len(flat)), flat.shape[1]), dtype=wide, device=flat.device) for _ in range(copies)]
    for start in range(0, len(flat), rows):
        end = min(start + rows, len(flat))
        yield slice(start, end), [array[: end - start] for array in space]
