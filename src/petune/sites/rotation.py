"""The rotary embedding of queries and keys, computed in our own way while a model trains.

In transformers it is a function that a model's file calls by name. Where it gives what the formula gives on random
vectors, a function of ours stands under that name meanwhile, and hands over to theirs where no gradients are wanted;
other models of the same file get the same from it.

Shapes: B rows, H heads, T tokens, D head width.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

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
    # Where ours stands already, whoever put it there takes it back.
    found = {source: vars(source)[NAME] for source in sources if not isinstance(vars(source).get(NAME), _Ours | None)}
    former = {source: turn for source, turn in found.items() if _is_rotation(turn)}
    try:
        for source, turn in former.items():
            setattr(source, NAME, _Ours(turn))
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


@final
class _Ours:
    """Our function, in the place of ``former``, which does what ours does not.

    Args:
        former: the model's own function.
    """

    def __init__(self, former: Turn) -> None:
        self._former = former

    def __call__(self, *inputs: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return the turned queries and keys."""
        if len(inputs) == 4 and not options and torch.is_grad_enabled():
            query, key, cos, sin = inputs
            is_whole = cos.ndim == 3 and cos.shape[-1] == query.shape[-1] == key.shape[-1]
            if is_whole and query.device.type == "cpu" and query.dtype == key.dtype == cos.dtype:
                return rotate(query, key, cos[:, None], sin[:, None])
        return self._former(*inputs, **options)
