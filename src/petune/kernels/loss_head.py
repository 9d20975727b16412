"""Cross-entropy of an output head, for label rows only, with its gradient made in the forward pass.

Shapes: hidden [N, d], weight [V, d], bias [V] or None, labels [N]. N counts label positions alone, so logits of prompt
tokens never exist; they are made a chunk of rows at a time, so [N, V] never exists either.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_ROWS = 512


def label_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None = None, chunk_rows: int = CHUNK_ROWS
) -> Tensor:
    """Return the summed negative log-likelihood of ``labels``, an fp32 scalar.

    Products run in hidden's precision, softmax and sums in fp32. A frozen head gets no gradient and no memory for one.
    """
    return _LabelCrossEntropy.apply(hidden, weight, labels, bias, chunk_rows)  # type: ignore[no-any-return, no-untyped-call]


class _LabelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk_rows: int
    ) -> Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        wants_bias = bias is not None and ctx.needs_input_grad[3]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = hidden.new_zeros((), dtype=wide)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=wide) if wants_weight else None
        d_bias = torch.zeros_like(weight[:, 0], dtype=wide) if wants_bias else None
        for start in range(0, hidden.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits = F.linear(hidden[rows], weight, bias).to(wide)
            target = labels[rows, None]
            normaliser = logits.logsumexp(-1, keepdim=True)
            total += (normaliser - logits.gather(1, target)).sum()
            if d_hidden is None and d_weight is None and d_bias is None:
                continue
            d_logits = logits.sub_(normaliser).exp_()
            d_logits.scatter_add_(1, target, d_logits.new_full(target.shape, -1.0))
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            small = d_logits.to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[rows] = small @ weight
            if d_weight is not None:
                d_weight += small.t() @ hidden[rows]
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight.dtype), d_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = gradients
        d_hidden, d_weight, d_bias = (None if d is None else d * scale.to(d.dtype) for d in ctx.saved_tensors)
        return d_hidden, d_weight, None, d_bias, None
