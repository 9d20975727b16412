"""Products in half precision computed in float32, on CPUs that are faster at that.

A CPU may have no instructions for bfloat16 or float16; then its library takes up to fifty times as long for a product
in them as for one in float32 with both factors converted beforehand. Or it has some that are no faster than those for
float32; then converting takes two thirds of the time. Factors are exact in float32 and so are their products; sums are
made in float32 either way and rounded once. So the two ways differ by the order of a sum.

Shapes: x [..., d_in], y [..., d_out], W [d_out, d_in], or [d_in, d_out] where it is stored transposed (Conv1D).
"""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from petune.backbone.processor import has_bfloat16, has_fast_bfloat16
from petune.kernels.constant_weights import in_precision

HALVES = (torch.bfloat16, torch.float16)
"""Types whose products may be computed in float32."""
LEAST_ROWS = 16
"""Fewer are multiplied as they are: converting the weight would take as long."""
LEAST_ROWS_WITH_INSTRUCTIONS = 64
"""The same where the CPU has instructions, and gains less."""
NEVER = sys.maxsize
"""The same where it multiplies faster in half precision."""
MOST_NUMBERS = 2**24
"""Of a weight, in float32 at a time."""
MOST_HELD = 2**23
"""Numbers in float32 that are held for the next product; the C library gives more than that back by itself."""

_GAIN = 2.5
"""How much faster float32 must be for a type to have no instructions: without, it is 4 to 50 times as fast. Which of
two sets of instructions is faster is not measured: that swings with the other work of a machine, and the order of sums
is not to.
"""
_TRIED_ROWS, _TRIED_WIDTH = 256, 256
_REPEATS = 5
_least_rows: dict[torch.dtype, int] = {}

Purpose = Literal["rows", "others", "matrix", "result"]
"""What room is for: the factors of a product, and what it gives."""


class _Rooms(threading.local):
    """Room for numbers in float32 that each product of a thread uses again.

    What a product takes for itself lies between what is kept for the backward pass. When it is freed the next, of
    another size, fits badly there, and the process grows.
    """

    def __init__(self) -> None:
        self.held: dict[Purpose, Tensor] = {}


_rooms = _Rooms()


@contextmanager
def wide_products(model: nn.Module) -> Iterator[None]:
    """Have the linears of ``model`` multiply in float32 inside the block, where they gain by it.

    Only plain linears in half precision on a CPU do, and only for so many rows that converting the weight pays.
    Nothing is kept in float32 for the backward pass. Hooks act as always.
    """
    changed: list[tuple[nn.Module, type[nn.Module]]] = []
    try:
        for module in model.modules():
            kind = _WIDE.get(type(module))
            if kind is not None and _gains(module):
                changed.append((module, type(module)))
                module.__class__ = kind  # by its class, so that compiled blocks that are alike share a graph
        yield
    finally:
        for module, kind in changed:
            module.__class__ = kind
        _rooms.held.clear()


def multiplies_slowly(module: nn.Module) -> bool:
    """Say whether ``module`` is a plain linear in a precision that its CPU has no instructions for."""
    return _gains(module) and is_slow(module.get_parameter("weight").dtype)


def has_plain_weight(module: nn.Module) -> bool:
    """Say whether ``module`` has a weight that is no sub-class of a tensor, and runs the ``forward`` of its class."""
    weight = module._parameters.get("weight")
    return type(weight) is nn.Parameter and type(weight.data) is Tensor and "forward" not in vars(module)


def is_plain_linear(module: nn.Module) -> bool:
    """Say whether ``module`` is an ``nn.Linear`` and no sub-class of another's, wide meanwhile or not."""
    return type(module) in (nn.Linear, WideLinear)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """Return ``x W^T + bias``, or ``x W + bias`` with a transposed weight, in x's precision.

    Args:
        x: [..., d_in].
        weight: in x's precision, or a learned one in float32.
        bias: [d_out], as the weight.
        transposed: whether the weight is [d_in, d_out].
    """
    if is_wide(x):
        return _wide_linear(x, weight, bias, transposed=transposed)
    weight = in_precision(weight, x.dtype)
    return F.linear(x, weight.t() if transposed else weight, None if bias is None else in_precision(bias, x.dtype))


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return ``x W^T + bias``, without gradients: in float32 where it is computed in that, else in x's type."""
    return _product(x, weight, bias) if is_wide(x) else F.linear(x, weight, bias)


def project_back(d_y: Tensor, weight: Tensor) -> Tensor:
    """Return ``dy W``, the gradient of x, as :func:`project` does."""
    return _back(d_y, weight) if is_wide(d_y) else d_y @ weight


def weight_gradient(d_y: Tensor, x: Tensor) -> Tensor:
    """Return ``dy^T x`` [d_out, d_in], the gradient of W, of x [R, d_in] and dy [R, d_out]: as :func:`project` does."""
    return _outer(d_y, x) if is_wide(d_y.t()) else d_y.t() @ x


def product_type(x: Tensor) -> torch.dtype:
    """Return the type in which products of rows x [..., d_in] are computed: x's own, or float32."""
    return torch.float32 if is_wide(x) else x.dtype


def is_wide(x: Tensor) -> bool:
    """Say whether products of rows x [..., d_in] are computed in float32, which does not depend on what they hold."""
    return x.dtype in HALVES and x.device.type == "cpu" and x.numel() >= least_rows(x.dtype) * x.shape[-1]


def is_slow(dtype: torch.dtype) -> bool:
    """Say whether this CPU has no instructions for products in ``dtype``."""
    return least_rows(dtype) <= LEAST_ROWS


def least_rows(dtype: torch.dtype) -> int:
    """Return how many rows are multiplied in float32 at the least; measured once, in some milliseconds."""
    if dtype not in _least_rows:
        _least_rows[dtype] = _fewest(dtype)
    return _least_rows[dtype]


def _fewest(dtype: torch.dtype) -> int:
    if _gain(dtype) >= _GAIN:
        return LEAST_ROWS
    is_even = dtype == torch.bfloat16 and has_bfloat16() and not has_fast_bfloat16()
    return LEAST_ROWS_WITH_INSTRUCTIONS if is_even else NEVER


def _gains(module: nn.Module) -> bool:
    """Say whether ``module`` is a plain linear in a precision whose products may be computed in float32."""
    if type(module) not in (*_WIDE, *_WIDE.values()) or not has_plain_weight(module):
        return False
    weight = module.get_parameter("weight")
    return weight.dtype in HALVES and weight.device.type == "cpu" and least_rows(weight.dtype) < NEVER


@torch.no_grad()
def _gain(dtype: torch.dtype) -> float:
    """Return how many times as fast products in ``dtype``, forward and backward, are in float32."""
    with torch.inference_mode(mode=False):
        x, weight = (torch.ones(count, _TRIED_WIDTH, dtype=dtype) for count in (_TRIED_ROWS, _TRIED_WIDTH))
    plain, wide = _least_seconds(
        lambda: (F.linear(x, weight), x @ weight),
        lambda: (_product(x, weight, None).to(dtype), _back(x, weight).to(dtype)),
    )
    return plain / wide


def _least_seconds(*works: Callable[[], Any]) -> list[float]:
    """Return the least seconds of each of ``works``, run in turn, after a run that does not count."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(_REPEATS + 1):
        for work, own in zip(works, seconds, strict=True):
            began = time.perf_counter()
            work()
            own.append(time.perf_counter() - began)
    return [min(own[1:]) for own in seconds]


def _wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
    if torch.is_grad_enabled():
        return _WideProduct.apply(x, weight, bias, transposed)  # type: ignore[no-any-return, no-untyped-call]
    return _forward(x, weight, bias, transposed)


def room(purpose: Purpose, *shape: int) -> Tensor:
    """Return room of a shape in float32, which holds until room for the same purpose is asked for again."""
    count = math.prod(shape)
    if count > MOST_HELD or not _may_reuse():
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    held = _rooms.held.get(purpose)
    if held is None or len(held) < count:
        with torch.inference_mode(mode=False):
            held = _rooms.held[purpose] = torch.empty(count, dtype=torch.float32, device="cpu")
    return held[:count].view(shape)


def multiplied(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left right`` of two matrices in float32, which holds until room for a result is asked for again."""
    return torch.mm(left, right, out=room("result", len(left), right.shape[1])) if _may_reuse() else left @ right


def _may_reuse() -> bool:
    """Say whether nobody keeps what is computed: neither autograd, as in a gradient's gradient, nor a compiler."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def widened(purpose: Purpose, x: Tensor) -> Tensor:
    """Return x in float32, which holds until room for the same purpose is asked for again; itself where it is that."""
    if x.dtype == torch.float32 or not _may_reuse():
        return x.to(torch.float32)
    if x.ndim == 2 and not x.is_contiguous() and x.t().is_contiguous():
        return widened(purpose, x.t()).t()
    return room(purpose, *x.shape).copy_(x)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    weight = weight.t() if transposed else weight
    return _rounded(x, weight.t(), bias) if _reuses(weight) else _product(x, weight, bias).to(x.dtype)


def _backward(d_y: Tensor, weight: Tensor, transposed: bool) -> Tensor:
    weight = weight.t() if transposed else weight
    return _rounded(d_y, weight) if _reuses(weight) else _back(d_y, weight).to(d_y.dtype)


def _reuses(weight: Tensor) -> bool:
    return weight.numel() <= MOST_NUMBERS and _may_reuse()


def _rounded(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x M + bias [..., n] in x's precision, for M [d, n]."""
    rows, columns = x.reshape(-1, x.shape[-1]), matrix.shape[1]
    y = multiplied(widened("rows", rows), widened("matrix", matrix))
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], columns).to(x.dtype)  # no view: a model may change it in place


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + bias [..., d_out] in float32."""
    wide, some = x.to(torch.float32), None if bias is None else bias.to(torch.float32)
    if weight.numel() <= MOST_NUMBERS:
        return F.linear(wide, weight.to(torch.float32), some)
    y = wide.new_empty(*x.shape[:-1], len(weight))
    for part in _parts(weight):
        y[..., part] = F.linear(wide, weight[part].to(torch.float32), None if some is None else some[part])
    return y


def _back(d_y: Tensor, weight: Tensor) -> Tensor:
    """Return dy W [..., d_in] in float32."""
    wide = d_y.to(torch.float32)
    if weight.numel() <= MOST_NUMBERS:
        return wide @ weight.to(torch.float32)
    d_x = wide.new_zeros(wide[..., 0].numel(), weight.shape[1])
    for part in _parts(weight):
        d_x.addmm_(wide[..., part].flatten(0, -2), weight[part].to(torch.float32))
    return d_x.view(*d_y.shape[:-1], weight.shape[1])


def _outer(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum over rows of ``left right^T`` [d_left, d_right] in float32."""
    return widened("rows", left.flatten(0, -2)).t() @ widened("others", right.flatten(0, -2))


def _parts(weight: Tensor) -> Iterator[slice]:
    rows = max(1, MOST_NUMBERS // weight.shape[1])
    return (slice(start, start + rows) for start in range(0, len(weight), rows))


class _WideProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        learns_x, learns_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if learns_weight else None, weight if learns_x else None)
        ctx.transposed, ctx.learned = transposed, weight.dtype
        return _forward(x, weight, bias, transposed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_y,) = gradients
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        if weight is not None:
            d_x = _backward(d_y, weight, ctx.transposed)
        if x is not None:
            d_weight = (_outer(x, d_y) if ctx.transposed else _outer(d_y, x)).to(ctx.learned)
        if ctx.needs_input_grad[2]:
            d_bias = d_y.flatten(0, -2).sum(0, dtype=torch.float32).to(ctx.learned)
        return d_x, d_weight, d_bias, None


@final
class WideLinear(nn.Linear):
    """What a linear is meanwhile."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - its name in PyTorch
        """Return x W^T + bias [..., d_out] for x [..., d_in]."""
        return _wide_linear(input, self.weight, self.bias) if is_wide(input) else super().forward(input)


@final
class WideConv1D(Conv1D):  # type: ignore[misc]
    """What a linear with a transposed weight is meanwhile."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W + bias [..., d_out] for x [..., d_in]."""
        if is_wide(x):
            return _wide_linear(x, self.weight, self.bias, transposed=True)
        return super().forward(x)  # type: ignore[no-any-return]


_WIDE: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: WideLinear, Conv1D: WideConv1D}
