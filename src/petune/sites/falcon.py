"""The attention of Falcon, which transformers does not call by name, sent through an attention function.

Positions are rotary, or a bias that grows with a key's place. Keys and values are one for all heads, one for each, or
one for each group of heads. Those of a group are repeated before they are cached, so virtual tokens have them by head.

Shapes: B rows, T queries, S keys, H heads, K key-value heads, D head width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.falcon.modeling_falcon import FalconAttention, apply_rotary_pos_emb, build_alibi_tensor

from petune.sites.alibi import bias_in_front


def falcon_forward(
    module: FalconAttention, attention: Callable[..., tuple[Tensor, None]]
) -> Callable[..., tuple[Tensor, None]]:
    """Return a forward pass for ``module`` that computes the same and lets ``attention`` do the attending."""

    def forward(
        hidden_states: Tensor,
        alibi: Tensor | None,
        attention_mask: Tensor,
        layer_past: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **unused: Any,
    ) -> tuple[Tensor, None]:
        parts = module._split_heads(module.query_key_value(hidden_states))
        query, key, value = (part.transpose(1, 2) for part in parts)
        options: dict[str, Any] = {"scaling": module.inv_norm_factor}
        if alibi is None:
            assert position_embeddings is not None, "Falcon has rotary positions or a bias"
            query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        else:
            attention_mask, bias = _mask_and_bias(module, attention_mask, alibi)
            options |= bias
        if layer_past is not None:
            key, value = layer_past.update(key, value, module.layer_idx)
        output, _ = attention(module, query, key, value, attention_mask, **options)
        return module.dense(output.flatten(2)), None

    return forward


def _mask_and_bias(module: FalconAttention, mask: Tensor, alibi: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return what is seen [B, H, T, S], and what else the attention is told where a bias stands for positions.

    Args:
        module: the attention.
        mask: the bias where a key is seen and the lowest number where not [B, H, T, S].
        alibi: the bias before it is scaled [B, H, 1, S].
    """
    heads = module.num_heads
    # transformers adds the mask, which holds the bias, and without PyTorch's kernel the bias itself once more.
    factor = module.inv_norm_factor * (1 if module.config._attn_implementation == "sdpa" else 2)
    bias = {
        "position_bias": alibi.view(mask.shape[0], heads, 1, -1) * factor,
        "virtual_bias": lambda length: bias_in_front(build_alibi_tensor, heads, length, alibi) * factor,
        "dropout": module.attention_dropout.p if module.training else 0.0,
    }
    return mask > torch.finfo(mask.dtype).min / 2, bias
