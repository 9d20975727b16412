"""The attention of BLOOM, which transformers does not call by name, sent through an attention function.

BLOOM has no positions: a bias grows with a key's place (ALiBi; Press, Smith, Lewis 2021, https://arxiv.org/abs/2108.12409).
Virtual tokens lie before the first real one, as in Hugging Face PEFT.

Shapes: B rows, T queries, S keys, P virtual tokens, H heads, D head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor

Attention = Callable[..., tuple[Tensor, None]]


def bloom_forward(module: BloomAttention, attention: Attention) -> Callable[..., tuple[Tensor, None]]:
    """Return a forward pass for ``module`` that computes the same and lets ``attention`` do the attending."""

    def forward(
        hidden_states: Tensor,
        residual: Tensor,
        alibi: Tensor,
        attention_mask: Tensor | None,
        layer_past: Any = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        rows, tokens, width = hidden_states.shape
        heads = module.num_heads
        fused = module.query_key_value(hidden_states).view(rows, tokens, heads, 3, width // heads)
        query, key, value = (part.transpose(1, 2) for part in fused.unbind(3))
        if layer_past is not None:
            key, value = layer_past.update(key, value, module.layer_idx)
        output, _ = attention(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=module.attention_dropout.p if module.training else 0.0,
            scaling=module.inv_norm_factor,
            position_bias=alibi.view(rows, heads, 1, -1),
            virtual_bias=lambda length: _virtual_bias(length, heads, alibi),
        )
        output = module.dense(output.reshape(rows, tokens, width))
        return F.dropout(output, module.hidden_dropout, module.training) + residual, None

    return forward


def _virtual_bias(length: int, heads: int, alibi: Tensor) -> Tensor:
    """Return the bias [1, H, 1, P] of keys at the places -P to -1."""
    two = torch.ones(1, 2, dtype=torch.int64, device=alibi.device)
    slopes = build_alibi_tensor(two, heads, alibi.dtype)[:, 0, 1]
    places = torch.arange(-length, 0, device=alibi.device, dtype=alibi.dtype)
    bias: Tensor = slopes[:, None] * places
    return bias[None, :, None]


OWN_FORWARD: dict[type[nn.Module], Callable[[Any, Attention], Callable[..., Any]]] = {BloomAttention: bloom_forward}
"""The attention modules that call no function by name, and how each is sent through ours."""
