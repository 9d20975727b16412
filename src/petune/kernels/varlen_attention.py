"""Causal attention of rows that lie end to end by PyTorch's kernel for rows of any lengths, which pads nothing.

Shapes: N tokens of all rows, B rows, H query heads, K key-value heads, D head width.
"""

from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor

_MOST_WIDE = 256
"""The widest head that the kernel has."""


def _found() -> Callable[..., Tensor] | None:
    """Return PyTorch's function, which older releases lack, or have without grouped heads."""
    with suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        if "enable_gqa" in signature(varlen_attn).parameters:
            return varlen_attn  # type: ignore[return-value]
    return None


_KERNEL = _found()


def has_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Say whether PyTorch has the kernel here: for half precisions, on CUDA devices of 2020 or later."""
    there = _KERNEL is not None and device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    return there and torch.cuda.get_device_capability(device) >= (8, 0)


def has_varlen(query: Tensor, value: Tensor, options: dict[str, Any]) -> bool:
    """Say whether the kernel can do an attention: where there is one, without dropout or cap, of heads that it has.

    Args:
        query: [..., D].
        value: [..., D].
        options: what the model says to its attention function.
    """
    width = query.shape[-1]
    plain = not options.get("dropout") and options.get("softcap") is None
    fits = width == value.shape[-1] and width <= _MOST_WIDE and width % 8 == 0
    return plain and fits and has_kernel(query.device, query.dtype)


def attend_in_place(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float | None
) -> Tensor:
    """Return the output [N, H, D] of attention in which each token sees its own row up to itself.

    Args:
        query: [N, H, D].
        key: [N, K, D].
        value: [N, K, D].
        bounds: where rows begin, and where the last one ends [B + 1], int32.
        longest: tokens of the longest row.
        scale: factor of the scores; 1 / sqrt(D) if None.
    """
    assert _KERNEL is not None, "ask has_varlen first"
    grouped = query.shape[1] != key.shape[1]
    return _KERNEL(
        query, key, value, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0), enable_gqa=grouped
    )
