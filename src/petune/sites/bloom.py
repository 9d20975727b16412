"""The attention of BLOOM, which transformers does not call by name, sent through an attention function.

BLOOM has no positions: a bias grows with a key's place.

Shapes: B rows, T queries, S keys, H heads, D head width.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor

from petune.sites.alibi import bias_in_front


def bloom_forward(
    module: BloomAttention, attention: Callable[..., tuple[Tensor, None]]
) -> Callable[..., tuple[Tensor, None]]:
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
            virtual_bias=lambda length: bias_in_front(build_alibi_tensor, heads, length, alibi),
        )
        output = module.dense(output.reshape(rows, tokens, width))
        return F.dropout(output, module.hidden_dropout, module.training) + residual, None

    return forward
