"""PiSSA: a low-rank update that starts as the principal part of the weight.

Paper: Meng, Wang, Zhang: "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models"
(2024), https://arxiv.org/abs/2404.02948

    W = U S V^T,   B_0 = U_r S_r^(1/2) / s^(1/2),   A_0 = S_r^(1/2) V_r^T / s^(1/2),   y = (W - s B_0 A_0) x + s B A x

Where we differ: the base keeps its weight, and the update counts from its start, y = W x + s (B A - B_0 A_0) x, which
is the same function with the same gradients.

Shapes: W [d_out, d_in], r rank.
"""

import re

import torch
from torch import Tensor

_NAME = re.compile(r"pissa(_niter_(?P<rounds>\d{1,3}))?")


def is_pissa(name: object) -> bool:
    """Say whether a start is called ``pissa``, or ``pissa_niter_<n>`` for a fast SVD with n rounds."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


@torch.no_grad()
def principal_start(
    weight: Tensor, rank: int, scale: float, name: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return A_0 [r, d_in] and B_0 [d_out, r] in fp32.

    Args:
        weight: W [d_out, d_in].
        rank: r, at most the smaller side of W.
        scale: s.
        name: ``pissa`` for the exact SVD, ``pissa_niter_<n>`` for a randomised one.
        generator: source of the randomised one.
    """
    match = _NAME.fullmatch(name)
    assert match is not None
    wide = weight.to(torch.float32)
    if match["rounds"] is None:
        left, values, right = torch.linalg.svd(wide, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    else:
        with torch.random.fork_rng():  # the function draws from the global generator alone
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            left, values, right = torch.svd_lowrank(wide, rank, niter=int(match["rounds"]))
        right = right.t()
    root = (values / scale).sqrt()
    return (root[:, None] * right).contiguous(), (left * root).contiguous()
