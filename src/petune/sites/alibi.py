"""Keys of virtual tokens where a bias that grows with a key's place stands for positions (ALiBi).

Paper: Press, Smith, Lewis 2021, https://arxiv.org/abs/2108.12409

Virtual tokens lie before the first real one, as in Hugging Face PEFT.

Shapes: H heads, P virtual tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def bias_in_front(build: Callable[..., Tensor], heads: int, length: int, like: Tensor) -> Tensor:
    """Return the bias [1, H, 1, P] of keys at the places -P to -1.

    Args:
        build: the model's own function, which gives the bias [H, 1, S] of a mask [1, S].
        heads: how many heads there are.
        length: P.
        like: a tensor of the device and the precision wanted.
    """
    two = torch.ones(1, 2, dtype=torch.int64, device=like.device)
    slopes = build(two, heads, like.dtype)[:, 0, 1]
    places = torch.arange(-length, 0, device=like.device, dtype=like.dtype)
    return (slopes[:, None] * places)[None, :, None]
