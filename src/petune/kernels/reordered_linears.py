"""Weights laid out as this CPU's products want them, for as long as they do not change.

The CPU's library (oneDNN) multiplies blocks of numbers, and brings a weight into that order at every call: with a few
rows, as in generation, this takes about as long as the product. Here it is done once. Sums are made in the same order
in bfloat16, bit for bit; in float32 they differ by rounding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

REORDERED_BYTES = 2**30
"""Most memory that copies of weights may take; linears beyond it run as they are."""

_EXPECTED_ROWS = 16
_OPERATIONS = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight")
"""PyTorch's own, of no promised interface: where a release lacks one, linears run as they are."""


@contextmanager
def reordered_linears(model: nn.Module, *, most_bytes: int = REORDERED_BYTES) -> Iterator[int]:
    """Run the linears of ``model`` on reordered copies of their weights inside the block, which must not change them.

    Only plain linears on a CPU are: a sub-class, a weight of another kind, or a ``forward`` put there by somebody else
    stays as it is. Hooks act as always.

    Args:
        model: the model.
        most_bytes: memory that the copies may take.

    Yields:
        How many linears are reordered.
    """
    reordered: list[nn.Linear] = []
    room = most_bytes
    try:
        for module in model.modules() if _is_supported() else ():
            if type(module) is nn.Linear and _is_plain(module) and module.weight.nbytes <= room:
                weight = _reordered(module.weight.detach())
                reordered.append(module)
                module.forward = partial(_product, weight, module.bias)  # type: ignore[method-assign]
                room -= module.weight.nbytes
        yield len(reordered)
    finally:
        for module in reordered:
            vars(module).pop("forward", None)


def reordered(weight: Tensor) -> Tensor | None:
    """Return a copy of ``weight`` [d_out, d_in] for :func:`reordered_sum`; None where it runs best as it is."""
    return _reordered(weight.contiguous()) if _is_supported() and _is_fit(weight) else None


def reordered_sum(x: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
    """Return ``x W^T``, or ``y + x W^T`` rounded once [..., d_out], for x [..., d_in] and a reordered weight."""
    if y is None:
        return _product(weight, None, x)
    total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, y, weight, None, "add")
    return total


def _reordered(weight: Tensor) -> Tensor:
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
    return copy


def _product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return x W^T + bias [..., d_out] for x [..., d_in]."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _is_supported() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)


def _is_plain(linear: nn.Linear) -> bool:
    weight = linear.weight
    return (
        "forward" not in vars(linear)
        and type(weight) is nn.Parameter
        and type(weight.data) is Tensor
        and weight.is_contiguous()
        and _is_fit(weight)
    )


def _is_fit(weight: Tensor) -> bool:
    computes = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _multiplies_bfloat16())
    return weight.device.type == "cpu" and computes


def _multiplies_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
