"""Weights laid out as this CPU's products want them, for as long as they do not change.

The CPU's library (oneDNN) multiplies blocks of numbers, and brings a weight into that order at every call: with a few
rows, as in generation, this takes about as long as the product. Here it is done once. Sums are made in the same order
in bfloat16, bit for bit; in float32 they differ by rounding. On a CPU that is slow at products in half precision a
weight is converted to float32 once, where :mod:`petune.kernels.wide_products` does it at every call, or, for a few
rows, not at all. On one that is only no faster in half precision, as many rows as a prompt has are left to that module.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from petune.kernels.wide_products import has_plain_weight, is_plain_linear, is_wide, linear, multiplies_slowly

REORDERED_BYTES = 2**30
"""Most memory that copies of weights may take; linears beyond it run as they are."""

_EXPECTED_ROWS = 16
_OPERATIONS = ("_is_mkldnn_bf16_supported", "_linear_pointwise", "_reorder_linear_weight")
"""PyTorch's own, of no promised interface: where a release lacks one, linears run as they are."""


@contextmanager
def reordered_linears(model: nn.Module, *, most_bytes: int = REORDERED_BYTES) -> Iterator[int]:
    """Run the linears of ``model`` on copies of their weights inside the block, which must not change them.

    Only plain linears on a CPU are: a sub-class, a weight of another kind, or a ``forward`` put there by somebody else
    stays as it is. Hooks act as always.

    Args:
        model: the model.
        most_bytes: memory that the copies may take.

    Yields:
        How many linears have a copy.
    """
    changed: list[nn.Module] = []
    room = most_bytes
    try:
        for module in model.modules():
            made = _product_of(module, room)
            if made is not None:
                changed.append(module)
                module.forward, size = made
                room -= size
        yield len(changed)
    finally:
        for module in changed:
            vars(module).pop("forward", None)


def _product_of(module: nn.Module, room: int) -> tuple[Callable[[Tensor], Tensor], int] | None:
    """Return what ``module`` is to run, and the bytes of its copy; None where it stays as it is."""
    if multiplies_slowly(module):
        size, make = torch.float32.itemsize * module.get_parameter("weight").numel(), _wide_product
    elif (
        _is_supported()
        and is_plain_linear(module)
        and has_plain_weight(module)
        and _is_fit(module.get_parameter("weight"))
    ):
        size, make = module.get_parameter("weight").nbytes, _reordered_product
    else:
        return None
    return (make(module), size) if size <= room else None


def _wide_product(module: nn.Module) -> Callable[[Tensor], Tensor]:
    plain, bias = module.get_parameter("weight").detach(), module._parameters.get("bias")
    is_transposed = isinstance(module, Conv1D)
    weight = (plain.t() if is_transposed else plain).to(torch.float32)
    wide_bias = None if bias is None else bias.detach().to(torch.float32)

    def product(x: Tensor) -> Tensor:
        if x.numel() == x.shape[-1] and not is_transposed:  # a single row is summed as fast, and half as much is read
            return F.linear(x, plain, bias)
        return F.linear(x.to(torch.float32), weight, wide_bias).to(x.dtype)

    return product


def _reordered_product(module: nn.Module) -> Callable[[Tensor], Tensor]:
    plain = module.get_parameter("weight").detach()
    return partial(_product, _reordered(plain), plain, module._parameters.get("bias"))


def _reordered(weight: Tensor) -> Tensor:
    copy: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
    return copy


def _product(reordered: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Return x W^T + bias [..., d_out] for x [..., d_in]."""
    if is_wide(x):  # as many rows as a prompt has, on a CPU that multiplies them faster in float32
        return linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, reordered, bias, "none", [], "")
    return y


def _is_supported() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATIONS)


def _is_fit(weight: Tensor) -> bool:
    computes = weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and _multiplies_bfloat16())
    return weight.device.type == "cpu" and weight.is_contiguous() and computes


def _multiplies_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
