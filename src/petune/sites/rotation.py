"""The rotary embedding of queries and keys, computed in our own way while a model trains.

In transformers it is a function that a model's file calls by name. Where it gives what the formula gives on random
vectors, a function of ours stands under that name meanwhile; other models of the same file get the same from it.

Shapes: B rows, H heads, T tokens, D head width.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from petune.kernels.rotary import rotate

Turn = Callable[..., tuple[Tensor, Tensor]]

NAME = "apply_rotary_pos_emb"
"""What transformers' files call the function that turns queries and keys."""


@contextmanager
def own_rotation(model: nn.Module) -> Iterator[None]:
    """Turn queries and keys of ``model`` by our own function inside the block, where it gives the same."""
    sources = {sys.modules[type(part).__module__] for part in model.modules() if "Attention" in type(part).__name__}
    former = {source: vars(source)[NAME] for source in sources if _is_rotation(vars(source).get(NAME))}
    for source, turn in former.items():
        setattr(source, NAME, _ours(turn))
    try:
        yield
    finally:
        for source, turn in former.items():
            setattr(source, NAME, turn)


@torch.no_grad()
def _is_rotation(turn: Any) -> bool:
    generator = torch.Generator().manual_seed(0)
    query, key, cos, sin = (torch.randn(size, generator=generator) for size in _SIZES)
    try:
        given = turn(query, key, cos, sin)
        return all(
            torch.allclose(ours, own, rtol=1e-5, atol=1e-6)
            for ours, own in zip(rotate(query, key, cos[:, None], sin[:, None]), given, strict=True)
        )
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False


_SIZES = ((2, 2, 3, 8), (2, 1, 3, 8), (2, 3, 8), (2, 3, 8))


def _ours(former: Turn) -> Turn:
    def turn(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        plain = not rest and not options and q.device.type == "cpu" and cos.shape[-1] == q.shape[-1] == k.shape[-1]
        if not plain or cos.ndim != 3 or not q.dtype == k.dtype == cos.dtype:
            return former(q, k, cos, sin, *rest, **options)
        return rotate(q, k, cos[:, None], sin[:, None])

    return turn
