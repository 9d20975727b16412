"""Attention of short sequences as plain batched products, with its backward written out.

PyTorch's CPU kernel works in tiles, which pays for long sequences; for short ones, two products over all rows and
heads are faster, the more so in the backward pass. Query heads that share keys are rows of one product, so keys and
values are never repeated. The forward pass is computed in fp32, under autocast too: rounded scores and weights would
show in the loss.

Shapes: B rows, T queries, S keys, H query heads, K key-value heads, D head width.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from petune.kernels.dropout import draw_kept, draws_here
from petune.kernels.dropout import dropout as drop
from petune.kernels.wide_products import product_type

PRODUCT_KEYS = 256
"""Up to how many keys batched products are used in training on CPU: beyond, the kept weights outgrow what they save."""
INFERENCE_KEYS = 128
"""The same without gradients, where several queries are asked at once."""
_PRODUCT_OPTIONS = {"dropout", "scaling", "is_causal", "sliding_window", "position_ids", "use_cache"}
"""What a model may say to its attention that is in the mask already, or that products heed."""
_SINKS = ("s_aux", "sinks")
"""What models call the scores of their sinks."""
_WITHOUT_GRADIENTS = ContextVar("without_gradients", default=False)


@contextmanager
def products_without_gradients() -> Iterator[None]:
    """Use products without gradients as well; outside, PyTorch's kernel gives what the bare model gives, to the bit."""
    before = _WITHOUT_GRADIENTS.set(True)
    try:
        yield
    finally:
        _WITHOUT_GRADIENTS.reset(before)


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> Tensor:
    """Return the output [B, T, H, D] of attention ``module``: by products where they are faster, else by PyTorch.

    Args:
        module: the module that is running.
        query: [B, H, T, D].
        key: [B, K, S, D].
        value: [B, K, S, D].
        attention_mask: as for :func:`product_attention`.
        options: what the model says to its attention function.
    """
    cap, scale = options.pop("softcap", None), options.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    sinks = next((sinks for name in _SINKS if (sinks := options.pop(name, None)) is not None), None)
    if sinks is not None:
        causal = _is_causal(module, options)
        key, value, attention_mask = with_sink(query, key, value, attention_mask, sinks, is_causal=causal)
        if options.get("position_bias") is not None:
            options["position_bias"] = F.pad(options["position_bias"], (0, 1))
    if cap is not None:
        return capped_attention(query, key, value, attention_mask, scale, cap, options.get("dropout", 0.0))
    dropout = options.get("dropout") or 0.0
    said = {name for name, value in options.items() if value is not None}
    plain = said <= _PRODUCT_OPTIONS and (dropout == 0 or draws_here(query.device, dropout))
    if plain and _mask_is_whole(module, attention_mask, options) and _is_short(query, key):
        return product_attention(query, key, value, attention_mask, scale, dropout)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return output  # type: ignore[no-any-return]


def _mask_is_whole(module: nn.Module, mask: Tensor | None, options: Mapping[str, Any]) -> bool:
    """Say whether ``mask`` says all of what is seen, and nothing of it is learned."""
    return not _is_causal(module, options) if mask is None else not mask.requires_grad


def _is_causal(module: nn.Module, options: Mapping[str, Any]) -> bool:
    """Say what a mask that is left out means: that a token sees those before it alone, or all."""
    is_causal = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)


def _is_short(query: Tensor, key: Tensor) -> bool:
    """Say whether products are faster, as measured (``benchmarks/attention.py``)."""
    if query.device.type != "cpu":
        return False
    if query.requires_grad:
        return key.shape[2] <= PRODUCT_KEYS
    if torch.compiler.is_compiling() or not _WITHOUT_GRADIENTS.get():
        return False
    if query.shape[2] > 1:
        return key.shape[2] <= INFERENCE_KEYS
    # One query for each row, as in generation: PyTorch's kernel is made for many, and has grouped keys repeated for it.
    return query.shape[1] > key.shape[1] or query.dtype == torch.float32


def product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float = 0.0
) -> Tensor:
    """Return ``softmax(scale * query key^T + mask) value`` [B, T, H, D].

    Args:
        query: [B, H, T, D].
        key: [B, K, S, D]; K divides H.
        value: [B, K, S, D].
        mask: added to the scores, or boolean with true for what is seen; [B or 1, 1 or H, T, S], None for all seen.
        scale: factor of the scores.
        dropout: share of the weights that is dropped, where gradients are on.
    """
    rows, heads, queries, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    flat = (
        query.reshape(rows * groups, heads // groups * queries, width),
        key.reshape(rows * groups, keys, width),
        value.reshape(rows * groups, keys, value.shape[3]),
    )
    shape = (rows, groups, heads // groups, queries)
    with _as_written(query):
        if torch.is_grad_enabled():
            mixed: Tensor = _ProductAttention.apply(*flat, mask, scale, shape, dropout)  # type: ignore[no-untyped-call]
        else:
            # Weights are rounded to the values' precision, as PyTorch's kernel does; it spares a copy in fp32.
            weights, kind = _weights(flat[0], flat[1], mask, scale, shape), product_type(flat[0])
            mixed = torch.bmm(weights.to(kind), flat[2].to(kind)).to(value.dtype)
    return mixed.view(rows, heads, queries, value.shape[3]).transpose(1, 2)


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, cap: float, dropout: float = 0.0
) -> Tensor:
    """Return ``softmax(cap * tanh(scale * query key^T / cap) + mask) value`` [B, T, H, D].

    PyTorch's attention has no bound on scores, which Gemma 2 was trained with.

    Args:
        query: [B, H, T, D].
        key: [B, K, S, D]; K divides H.
        value: [B, K, S, D].
        mask: as for :func:`product_attention`.
        scale: factor of the scores.
        cap: what no score exceeds.
        dropout: share of the weights that is dropped.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    repeats = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(repeats, 1) for t in (key, value))
    with _as_written(query):
        scores = cap * torch.tanh(scale / cap * (query.to(wide) @ key.to(wide).transpose(-1, -2)))
        weights = (scores if mask is None else scores + _added(mask)).softmax(-1)
        return (drop(weights, dropout) @ value.to(wide)).to(query.dtype).transpose(1, 2)


def with_sink(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, sinks: Tensor, *, is_causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values [B, K, S + 1, D] and a mask [B, H, T, S + 1] to be added, with a sink as the last key.

    A sink has a score of its own, takes its share of the weights, and adds nothing to the output.

    Args:
        query: [B, H, T, D].
        key: [B, K, S, D].
        value: [B, K, S, D].
        mask: as for :func:`product_attention`.
        sinks: scores of the sink [H], or [B, H, T, 1].
        is_causal: what a mask that is left out means.
    """
    rows, heads, queries, _ = query.shape
    keys, wide = key.shape[2], torch.promote_types(query.dtype, torch.float32)
    if mask is None:
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=query.device)
        mask = mask.tril(keys - queries) if is_causal else mask
    shown = _added(mask).to(wide).expand(rows, heads, queries, keys)
    score = (sinks.view(1, -1, 1, 1) if sinks.ndim == 1 else sinks).to(wide).expand(rows, heads, queries, 1)
    return F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1)), torch.cat([shown, score], -1)


def _as_written(tensor: Tensor) -> AbstractContextManager[object]:
    """Keep products on the device of ``tensor`` in the precision of their factors, where autocast would lower it."""
    device = tensor.device.type
    lowered = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if lowered else nullcontext()


def _added(mask: Tensor) -> Tensor:
    """Return a mask to be added to scores; a boolean one is true for what is seen."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, torch.finfo(torch.float32).min)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, shape: tuple[int, ...]) -> Tensor:
    """Return the weights [B * K, H / K * T, S] in fp32 at least, of queries and keys laid out as rows of groups."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.bmm(query.to(wide) * scale, key.to(wide).transpose(1, 2))
    if mask is not None:
        split = scores.view(*shape, key.shape[1])
        mask = mask[:, :, None] if mask.shape[1] == 1 else mask.reshape(-1, *shape[1:], key.shape[1])
        if mask.dtype == torch.bool:
            split.masked_fill_(~mask, torch.finfo(torch.float32).min)
        else:
            split += mask
    return scores.softmax(-1)


class _ProductAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        shape: tuple[int, ...],
        dropout: float,
    ) -> Tensor:
        weights = _weights(query, key, mask, scale, shape)
        kept, ctx.scaled_up = draw_kept(weights.shape, dropout) if dropout else (None, 1.0)
        ctx.save_for_backward(query, key, value, weights.to(query.dtype), kept)
        ctx.scale = scale
        if kept is not None:
            weights = kept.to(weights.dtype).mul_(weights).mul_(ctx.scaled_up)
        return torch.bmm(weights, value.to(weights.dtype)).to(query.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (d_out,) = gradients
        precision, kind = d_out.dtype, product_type(d_out)
        *tensors, kept = ctx.saved_tensors
        d_query = d_key = None
        with _as_written(d_out):
            d_out, query, key, value, weights = (t.to(kind) for t in (d_out, *tensors))
            used = weights
            if kept is not None:
                d_out, kept = d_out * ctx.scaled_up, kept.to(kind)
                used = weights * kept
            d_value = torch.bmm(used.transpose(1, 2), d_out) if ctx.needs_input_grad[2] else None
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                d_weights = torch.bmm(d_out, value.transpose(1, 2))
                d_weights = d_weights if kept is None else d_weights.mul_(kept)
                d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype).mul_(ctx.scale)
                d_query = torch.bmm(d_scores, key) if ctx.needs_input_grad[0] else None
                d_key = torch.bmm(d_scores.transpose(1, 2), query) if ctx.needs_input_grad[1] else None
        found = (None if d is None else d.to(precision) for d in (d_query, d_key, d_value))
        return *found, None, None, None, None
