"""The low-rank update ``y + s B A x`` with frozen neighbours in mind.

Shapes: x [..., d_in], y [..., d_out], A [r, d_in], B [d_out, r].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from petune.backbone.packed_weight import whole
from petune.kernels.constant_weights import in_precision
from petune.kernels.upload import uploaded
from petune.kernels.wide_products import HALVES, is_wide, linear, multiplied, product_type, room, widened

Run = tuple[int, int, int]
"""Rows that follow one another and have the same pair: which pair, the first row, and the one behind the last."""

MOST_PARTS = 16
"""Into how many pieces the longest run may be cut."""
ROWS_OF_A_PIECE = 8
"""How many rows more a piece costs for being one."""
FEW_ROWS = 64
"""Up to so many, on a CPU, products as small as these are faster in float32: half precision takes longer to set up."""


def add_low_rank(x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return ``y + scale * (x A^T) B^T`` in y's precision.

    The fp32 masters A and B are cast to x's precision, never x to theirs: the cast of a few thousand numbers is cheap,
    and what autograd keeps for the backward pass stays in the small precision. Scale and sum ride on the second
    product (``addmm``), so no array of y's size is made beside the result. A few rows without gradients, as in
    generation, and rows that the CPU multiplies in fp32 are computed in that and rounded once.
    """
    if _are_few(x):
        update = F.linear(F.linear(x.to(torch.float32), a.to(torch.float32)), b.to(torch.float32))
        return torch.add(y, update, alpha=scale).to(y.dtype)
    if is_wide(x):
        return _WideLowRank.apply(x, y, a, b, scale)  # type: ignore[no-any-return, no-untyped-call]
    hidden, up = F.linear(x, in_precision(a, x.dtype)), in_precision(b, x.dtype).t()
    flat = torch.addmm(y.reshape(-1, y.shape[-1]), hidden.reshape(-1, hidden.shape[-1]), up, alpha=scale)
    return flat.view(y.shape)


def _are_few(x: Tensor) -> bool:
    """Say whether rows x [..., d_in] in half precision are so few that products without gradients gain by float32."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return x.dtype in HALVES and x.device.type == "cpu" and x.numel() <= FEW_ROWS * x.shape[-1]


def low_rank(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return ``scale * (x A^T) B^T`` in x's precision."""
    return linear(linear(x, a), b) * scale


class _WideLowRank(torch.autograd.Function):
    """Computes in fp32; of what the backward pass needs only ``x A^T`` is kept in that, and nothing is cast twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        hidden = widened("rows", _rows(x)) @ a.to(torch.float32).t()
        ctx.save_for_backward(x if ctx.needs_input_grad[2] else None, hidden, a, b)
        ctx.scale, ctx.dtype = scale, x.dtype
        rows = _rows(y)
        wide = room("result", *rows.shape).copy_(rows)
        torch.addmm(wide, hidden, b.to(torch.float32).t(), alpha=scale, out=wide)
        return _shaped(wide.to(y.dtype, copy=True), y.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_out,) = gradients
        x, hidden, a, b = ctx.saved_tensors
        needs_x, needs_y, needs_a, needs_b, _ = ctx.needs_input_grad
        wide, d_x, d_a, d_b = widened("rows", _rows(d_out)), None, None, None
        if needs_b:
            d_b = (wide.t() @ hidden).mul_(ctx.scale).to(b.dtype)
        d_hidden = (wide @ b.to(torch.float32)).mul_(ctx.scale)
        if needs_a:
            d_a = (d_hidden.t() @ widened("others", _rows(x))).to(a.dtype)
        if needs_x:
            d_x = multiplied(d_hidden, a.to(torch.float32)).to(ctx.dtype).view(*d_out.shape[:-1], a.shape[1])
        return d_x, d_out if needs_y else None, d_a, d_b, None


def _rows(x: Tensor) -> Tensor:
    """Return x [..., d] as rows [R, d]."""
    return x.reshape(-1, x.shape[-1])


def _shaped(made: Tensor, shape: torch.Size) -> Tensor:
    """Return a tensor that nobody else has in another shape, and not as a view: a model may add to it in place."""
    return torch.ops.aten._unsafe_view(made, shape)  # type: ignore[no-any-return]


def add_low_rank_by_run(
    x: Tensor, y: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], scales: Sequence[float], runs: tuple[Run, ...]
) -> Tensor:
    """Return ``y + s_g (x A_g^T) B_g^T`` in y's precision, where rows of the same pair follow one another.

    Runs are cut into pieces of one length, so that many small updates are one batch of products. What is not finite in
    the rows or in the pair of one run reaches no other.

    Args:
        x: [R, d_in].
        y: [R, d_out].
        pairs: A [r, d_in] and B [d_out, r] of each pair; ranks may differ.
        scales: s of each pair.
        runs: all R rows, in order.
    """
    ranks = [len(down) for down, _ in pairs]
    most = max(ranks)
    downs = [F.pad(down, (0, 0, 0, most - len(down))) if len(down) < most else down for down, _ in pairs]
    ups = [F.pad(up, (0, most - up.shape[1])) if up.shape[1] < most else up for _, up in pairs]
    factors = _factors(tuple(scales), torch.promote_types(x.dtype, torch.float32), x.device)
    return _LowRankByRun.apply(x, y, factors, runs, *downs, *ups)  # type: ignore[no-any-return, no-untyped-call]


@lru_cache(maxsize=64)
def _factors(scales: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # autograd keeps it
        return uploaded(torch.tensor(scales, dtype=dtype), device)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Runs cut into C pieces of n rows, the last of each run filled up."""

    length: int
    """n."""
    which: Tensor
    """The pair of each piece [C]."""
    places: Tensor
    """Where each row stands among those of all pieces [R]."""
    is_whole: bool
    """Whether nothing is filled up."""

    def cut(self, rows: Tensor) -> Tensor:
        """Return ``rows`` [R, d] as pieces [C, n, d], zeros where they are filled up."""
        if self.is_whole:
            return rows.view(len(self.which), self.length, rows.shape[1])
        pieces = rows.new_zeros(len(self.which) * self.length, rows.shape[1]).index_copy_(0, self.places, rows)
        return pieces.view(len(self.which), self.length, rows.shape[1])

    def joined(self, pieces: Tensor) -> Tensor:
        """Return the rows [R, d] of ``pieces`` [C, n, d]."""
        rows = pieces.flatten(0, 1)
        return rows if self.is_whole else rows.index_select(0, self.places)

    def summed(self, pieces: Tensor, pairs: int) -> Tensor:
        """Return the sums [G, ...] over the pieces [C, ...] of each pair, in fp32 at least."""
        wide = pieces.to(torch.promote_types(pieces.dtype, torch.float32))
        return wide.new_zeros(pairs, *wide.shape[1:]).index_add_(0, self.which, wide)


@lru_cache(maxsize=16)
def _pieces(runs: tuple[Run, ...], device: torch.device) -> _Pieces:
    """Return the pieces that cost least: rows, filled-up ones counted, and a few more for each piece."""
    sizes = [end - start for _, start, end in runs]
    longest = max(1, *sizes)
    lengths = {-(-longest // parts) for parts in range(1, MOST_PARTS + 1)}
    length = min(lengths, key=lambda n: sum(-(-size // n) for size in sizes) * (n + ROWS_OF_A_PIECE))
    which: list[int] = []
    places: list[int] = []
    before = 0
    for (pair, _, _), size in zip(runs, sizes, strict=True):
        count = -(-size // length)
        which += [pair] * count
        places += range(before, before + size)
        before += count * length
    owners, rows = (uploaded(torch.tensor(numbers, dtype=torch.int64), device) for numbers in (which, places))
    return _Pieces(length, owners, rows, is_whole=before == sum(sizes))


class _LowRankByRun(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scales: Tensor, runs: tuple[Run, ...], *factors: Tensor) -> Tensor:
        pieces, number, kind = _pieces(runs, x.device), len(scales), product_type(x)
        down = torch.stack(factors[:number]).to(kind)[pieces.which]
        up = (torch.stack(factors[number:]) * scales[:, None, None]).to(kind)[pieces.which]
        cut = pieces.cut(x)
        hidden = torch.bmm(cut.to(kind), down.transpose(1, 2))
        ctx.save_for_backward(cut, down, up, hidden, scales)
        ctx.pieces, ctx.dtypes = pieces, [factor.dtype for factor in factors]
        if pieces.is_whole and kind == y.dtype:
            return _shaped(torch.baddbmm(pieces.cut(y), hidden, up.transpose(1, 2)), y.shape)
        return y + pieces.joined(torch.bmm(hidden, up.transpose(1, 2))).to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (d_out,) = gradients
        cut, down, up, hidden, scales = ctx.saved_tensors
        pieces: _Pieces = ctx.pieces
        d_cut, cut_wide = (t.to(up.dtype) for t in (pieces.cut(d_out.contiguous()), cut))
        d_hidden = torch.bmm(d_cut, up)
        d_x = pieces.joined(torch.bmm(d_hidden, down)).to(cut.dtype) if ctx.needs_input_grad[0] else None
        d_down = pieces.summed(torch.bmm(d_hidden.transpose(1, 2), cut_wide), len(scales))
        d_up = pieces.summed(torch.bmm(d_cut.transpose(1, 2), hidden), len(scales)) * scales[:, None, None]
        d_factors = [d.to(dtype) for d, dtype in zip((*d_down, *d_up), ctx.dtypes, strict=True)]
        return d_x, d_out if ctx.needs_input_grad[1] else None, None, None, *d_factors


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
