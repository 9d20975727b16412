"""Dropout whose random numbers cost a fifth of those that PyTorch draws on CPU.

There ``bernoulli_`` draws 64 bits for each number that may be dropped, which takes most of a dropout's time. Sixteen
bits are enough to say whether one is dropped, so a draw serves four. A share is rounded to 1/65536 for that; what is
kept is scaled by the share that is kept in truth, so that means stay what they were. A byte for each number is all that
is saved for the backward pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_VALUES = 1 << 16
"""Of a draw."""
_LEAST = 2**-8
"""Smallest share, of what is dropped or of what is kept, that is drawn here: it is rounded by a part in 500 at most."""


def draws_here(device: torch.device, share: float) -> bool:
    """Say whether :func:`dropout` draws for tensors on ``device`` itself, or has PyTorch drop a ``share``."""
    return device.type == "cpu" and _LEAST <= share <= 1 - _LEAST and not torch.compiler.is_compiling()


def dropout(x: Tensor, share: float) -> Tensor:
    """Return ``x`` with each number dropped with probability ``share``, and the others scaled up.

    Draws from PyTorch's own generator of the device.

    Args:
        x: any shape.
        share: from 0 to 1.
    """
    if not draws_here(x.device, share):
        return F.dropout(x, share)
    return _Dropout.apply(x, share)  # type: ignore[no-any-return, no-untyped-call]


def draw_kept(shape: torch.Size, share: float) -> tuple[Tensor, float]:
    """Return what is kept where a ``share`` is dropped, a boolean of ``shape`` on CPU, and what to scale it by.

    Args:
        shape: any.
        share: from 1/256 to 255/256.
    """
    kept = round((1 - share) * _VALUES)
    words = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return words[: shape.numel()].view(shape) < kept - _VALUES // 2, _VALUES / kept


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        kept, ctx.scale = draw_kept(x.shape, share)
        ctx.save_for_backward(kept)
        return kept.to(x.dtype).mul_(x).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return kept.to(d_y.dtype).mul_(d_y).mul_(ctx.scale), None
