"""The low-rank update ``y + s B A x`` with frozen neighbours in mind.

Shapes: x [..., d_in], y [..., d_out], A [r, d_in], B [d_out, r].
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from petune.backbone.packed_weight import whole
from petune.kernels.constant_weights import in_precision


def add_low_rank(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return ``y + scale * (x A^T) B^T`` in y's precision.

    The fp32 masters A and B are cast to x's precision, never x to theirs: the cast of a few thousand numbers is cheap,
    and what autograd keeps for the backward pass stays in the small precision. Scale and sum ride on the second
    product (``addmm``), so no array of y's size is made beside the result.
    """
    hidden, up = F.linear(x, in_precision(a, x.dtype)), in_precision(b, x.dtype).t()
    flat = torch.addmm(y.reshape(-1, y.shape[-1]), hidden.reshape(-1, hidden.shape[-1]), up, alpha=scale)
    return flat.view(y.shape)


def low_rank(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return ``scale * (x A^T) B^T`` in x's precision."""
    return F.linear(F.linear(x, in_precision(a, x.dtype)), in_precision(b, x.dtype)) * scale


def add_low_rank_by_row(x: Tensor, y: Tensor, a: Tensor, b: Tensor, which: Tensor) -> Tensor:
    """Return ``y + (x A_g^T) B_g^T`` in y's precision, each row with a pair of its own.

    Rows of all pairs are one batch of products, so that many small updates cost as few calls as one.

    Args:
        x: [N, ..., d_in], N a multiple of R.
        y: [N, ..., d_out].
        a: A of each pair [G, r, d_in].
        b: B of each pair, times its scale [G, d_out, r].
        which: the pair of each row [R].
    """
    rows, width = len(which), y.shape[-1]
    # Gathered as masters, so that the gradients of rows with the same pair add up in fp32.
    down, up = a[which].to(x.dtype), b[which].to(x.dtype)
    hidden = torch.bmm(x.reshape(rows, -1, x.shape[-1]), down.transpose(1, 2))
    return torch.baddbmm(y.reshape(rows, -1, width), hidden, up.transpose(1, 2)).view(y.shape)


@torch.no_grad()
def updated_row_norms(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return the length [d_out] of each row of ``W + scale * B A``, in fp32, without writing that sum out.

    |w + s b A|^2 = |w|^2 + 2 s (w A^T) b^T + s^2 b (A A^T) b^T   for each row w of W, b of B

    Args:
        weight: W [d_out, d_in], in any precision.
        a: A [r, d_in].
        b: B [d_out, r].
        scale: the scale.
    """
    weight = whole(weight)
    squares: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square()
    crossed = F.linear(weight, a.to(weight.dtype)).to(torch.float32)  # [d_out, r]
    own = b @ (a @ a.t())
    changed: Tensor = squares + scale * ((2 * crossed + scale * own) * b).sum(1)
    return changed.clamp(min=0).sqrt()
