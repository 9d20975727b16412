"""The low-rank update ``y + s B A x`` with frozen neighbours in mind.

Shapes: x [..., d_in], y [..., d_out], A [r, d_in], B [d_out, r].
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def add_low_rank(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return ``y + scale * (x A^T) B^T`` in y's precision.

    The fp32 masters A and B are cast to x's precision, never x to theirs: the cast of a few thousand numbers is cheap,
    and what autograd keeps for the backward pass stays in the small precision. Scale and sum ride on the second
    product (``addmm``), so no array of y's size is made beside the result.
    """
    hidden = F.linear(x, a.to(x.dtype))
    flat = torch.addmm(y.reshape(-1, y.shape[-1]), hidden.reshape(-1, hidden.shape[-1]), b.to(x.dtype).t(), alpha=scale)
    return flat.view(y.shape)
