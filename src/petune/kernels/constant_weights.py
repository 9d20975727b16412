"""Small learned weights in the precision of computing, cast once while nobody changes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_CASTS: ContextVar[dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] | None] = ContextVar("casts", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Cast each weight once inside the block, in which no weight may change; without gradients only."""
    before = _CASTS.set({})
    try:
        yield
    finally:
        _CASTS.reset(before)


def in_precision(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``weight`` in ``dtype``: a cast that autograd knows of, or the one made earlier in the block."""
    casts = None if torch.compiler.is_compiling() else _CASTS.get()
    if casts is None or torch.is_grad_enabled() or weight.dtype == dtype:
        return weight.to(dtype)
    key = (id(weight), dtype)
    if key not in casts:
        casts[key] = (weight, weight.to(dtype))  # the weight is held, so that its id stays its own
    return casts[key][1]
