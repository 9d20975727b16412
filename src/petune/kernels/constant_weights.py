"""What is made of small learned weights, once while nobody changes them: casts, and the forms that products want."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

_MADE: ContextVar[dict[Hashable, tuple[tuple[Tensor, ...], Any]] | None] = ContextVar("made", default=None)

T = TypeVar("T")


@contextmanager
def constant_weights() -> Iterator[None]:
    """Make each form of a weight once inside the block, in which no weight may change; without gradients only."""
    before = _MADE.set({})
    try:
        yield
    finally:
        _MADE.reset(before)


def once(weights: tuple[Tensor, ...], form: Hashable, make: Callable[[], T]) -> T | None:
    """Return what ``make`` gives, or gave earlier in the block for these weights and this form; None outside one."""
    made = None if torch.compiler.is_compiling() else _MADE.get()
    if made is None or torch.is_grad_enabled():
        return None
    key = (*map(id, weights), form)
    if key not in made:
        made[key] = (weights, make())  # the weights are held, so that their ids stay their own
    found: T = made[key][1]
    return found


def in_precision(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``weight`` in ``dtype``: a cast that autograd knows of, or the one made earlier in the block."""
    cast = None if weight.dtype == dtype else once((weight,), dtype, lambda: weight.to(dtype))
    return weight.to(dtype) if cast is None else cast
