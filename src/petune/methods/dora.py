"""DoRA: the direction of a weight's rows is learned by a low-rank update, their lengths apart from it.

Paper: Liu, Wang, Yin, Molchanov, Wang, Cheng, Chen: "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024),
https://arxiv.org/abs/2402.09353

    y = m / |W + s B A| * (W x + s B A x) + b,   |.| the length of each row, a constant for the gradient (section 4.3)

m starts at |W|, so the base is unchanged at the start.

Shapes: m [d_out].
"""

from torch import Tensor


def row_factors(magnitude: Tensor, norms: Tensor) -> Tensor:
    """Return m / norms [d_out]; a row of zeros has no direction to keep, so its factor is 1."""
    has_direction = norms > 0  # a division by zero would reach the gradient, though its result is replaced
    return (magnitude / norms.where(has_direction, 1.0)).where(has_direction, 1.0)


def redirected(y: Tensor, product: Tensor, update: Tensor, magnitude: Tensor, norms: Tensor) -> Tensor:
    """Return y + (g - 1) W x + g s B A x with g = m / norms: y itself, to the last bit, where g is 1 and B is 0.

    Args:
        y: W x + b [N, ..., d_out].
        product: W x alone.
        update: s B A x.
        magnitude: m [d_out].
        norms: the lengths [d_out] of the rows of W + s B A, without a gradient.
    """
    factor = row_factors(magnitude, norms)
    return y + (factor - 1).to(y.dtype) * product + factor.to(y.dtype) * update
