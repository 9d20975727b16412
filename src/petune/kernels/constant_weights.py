"""Small learned weights in the precision of computing, cast once while nobody changes them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_FACTS: ContextVar[dict[int, tuple[object, bool]] | None] = ContextVar("facts", default=None)
_CASTS: ContextVar[dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] | None] = ContextVar("casts", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Cast each weight once inside the block, in which no weight may change; without gradients only."""
    before, known_before = _CASTS.set({}), _FACTS.set({})
    try:
        yield
    finally:
        _FACTS.reset(known_before)
        _CASTS.reset(before)


def known_while_constant(about: object, find_out: Callable[[], bool]) -> bool:
    """Return what ``find_out`` says ``about`` an object and weights: found out once inside a block."""
    facts = _FACTS.get()
    if facts is None:
        return find_out()
    if id(about) not in facts:
        facts[id(about)] = (about, find_out())  # it is held, so that its id stays its own
    return facts[id(about)][1]


def in_precision(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``weight`` in ``dtype``: a cast that autograd knows of, or the one made earlier in the block."""
    casts = _CASTS.get()
    if casts is None or torch.is_grad_enabled() or weight.dtype == dtype:
        return weight.to(dtype)
    key = (id(weight), dtype)
    if key not in casts:
        casts[key] = (weight, weight.to(dtype))  # the weight is held, so that its id stays its own
    return casts[key][1]
