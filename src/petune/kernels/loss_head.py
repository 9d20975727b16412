"""Cross-entropy of an output head, for label rows only, with its gradient made in the forward pass.

Shapes: hidden [N, d], weight [V, d], bias [V] or None, labels [N]. N counts label positions alone, so logits of prompt
tokens never exist; they are made a chunk of rows at a time, so [N, V] never exists either.
"""

from typing import Any

import torch
from torch import Tensor

from petune.backbone.packed_weight import whole
from petune.kernels.wide_products import project, project_back, weight_gradient

CHUNK_ROWS = 512


def label_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """Return the negative log-likelihood [N] of each of ``labels``, in fp32.

    Products run in hidden's precision, softmax and sums in fp32. A frozen head gets no gradient and no memory for one.
    """
    return _LabelCrossEntropy.apply(hidden, weight, labels, bias, chunk_rows)  # type: ignore[no-any-return, no-untyped-call]


class _LabelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk_rows: int
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        wanted = (*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[3])
        gradients = _pass(hidden, weight, labels, bias, chunk_rows, wanted, losses=losses)
        ctx.learns_head, ctx.chunk_rows = any(wanted[1:]), chunk_rows
        inputs = (hidden, weight, labels, bias) if ctx.learns_head else ()
        ctx.save_for_backward(*gradients, *inputs)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scales,) = gradients
        (d_hidden, d_weight, d_bias), inputs = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        if d_hidden is not None:
            d_hidden = d_hidden * scales.to(d_hidden.dtype)[:, None]
        if ctx.learns_head and len(scales):
            if bool((scales == scales[0]).all()):
                d_weight, d_bias = (None if d is None else d * scales[0].to(d.dtype) for d in (d_weight, d_bias))
            else:  # the sums over positions were made as if all counted alike
                hidden, weight, labels, bias = inputs
                wanted = (False, d_weight is not None, d_bias is not None)
                _, d_weight, d_bias = _pass(hidden, weight, labels, bias, ctx.chunk_rows, wanted, scales=scales)
        return d_hidden, d_weight, None, d_bias, None


def _pass(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    bias: Tensor | None,
    chunk_rows: int,
    wanted: tuple[bool, ...],
    *,
    losses: Tensor | None = None,
    scales: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the wanted gradients of hidden, weight and bias; write the loss of each position into ``losses`` [N].

    They are those of the losses' sum, or of the sum of ``scales`` [N] times losses.
    """
    wants_hidden, wants_weight, wants_bias = wanted
    weight = whole(weight)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    d_hidden = torch.empty_like(hidden) if wants_hidden else None
    d_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
    d_bias = torch.zeros_like(weight[:, 0], dtype=wide) if wants_bias else None
    for start in range(0, hidden.shape[0], chunk_rows):
        rows = slice(start, start + chunk_rows)
        logits = project(hidden[rows], weight, bias).to(wide)
        target = labels[rows, None]
        normaliser = logits.logsumexp(-1, keepdim=True)
        if losses is not None:
            losses[rows] = (normaliser - logits.gather(1, target))[:, 0]
        if not any(wanted):
            continue
        d_logits = logits.sub_(normaliser).exp_()
        d_logits.scatter_add_(1, target, d_logits.new_full(target.shape, -1.0))
        if scales is not None:
            d_logits *= scales[rows, None]
        if d_bias is not None:
            d_bias += d_logits.sum(0)
        small = d_logits.to(hidden.dtype)
        if d_hidden is not None:
            d_hidden[rows] = project_back(small, weight)
        if d_weight is not None:
            d_weight += weight_gradient(small, hidden[rows])
    return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), d_bias
