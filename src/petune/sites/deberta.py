"""The attention of DeBERTa-v2 and v3, which transformers does not call by name, sent through an attention function.

Paper: He, Liu, Gao, Chen: "DeBERTa: Decoding-enhanced BERT with Disentangled Attention" (2020),
https://arxiv.org/abs/2006.03654

    score(i, j) = (q_i k_j^T + q_i r_k(i - j)^T + k_j r_q(i - j)^T) / sqrt(f D)

r_k and r_q are projected embeddings of the distance, f is the number of terms (1 to 3). A virtual token is at no
distance: its score is the first term alone, over the same root, as in the authors' code of P-tuning v2.

Shapes: B rows, T tokens, H heads, D head width, R distances, d hidden width.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Encoder, DisentangledSelfAttention


def deberta_forward(
    module: DisentangledSelfAttention, attention: Callable[..., tuple[Tensor, None]]
) -> Callable[..., tuple[Tensor, None]]:
    """Return a forward pass for ``module`` that computes the same and lets ``attention`` do the attending."""

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        query = _heads(module, module.query_proj, hidden_states if query_states is None else query_states)
        key, value = (_heads(module, linear, hidden_states) for linear in (module.key_proj, module.value_proj))
        terms = 1 + sum(term in module.pos_att_type for term in ("c2p", "p2c"))
        scale = (query.shape[-1] * terms) ** -0.5
        bias = None
        if module.relative_attention and terms > 1:
            assert relative_pos is not None
            assert rel_embeddings is not None
            bias = scale * _distance_terms(module, query, key, relative_pos, module.pos_dropout(rel_embeddings))
        output, _ = attention(
            module,
            query,
            key,
            value,
            attention_mask.bool(),
            dropout=module.dropout.p if module.training else 0.0,
            scaling=scale,
            position_bias=bias,
        )
        return output.flatten(2), None

    return forward


def distance_embeddings(module: DebertaV2Encoder, attention: Callable[..., Any]) -> Callable[[], Tensor | None]:
    """Return what gives the embeddings of distances as a batch [B or 1, R, d]: adapters of their norm differ by row."""

    def get() -> Tensor | None:
        if not module.relative_attention:
            return None
        table: Tensor = module.rel_embeddings.weight[None]
        return module.LayerNorm(table) if "layer_norm" in module.norm_rel_ebd else table

    return get


def _distance_terms(
    module: DisentangledSelfAttention, query: Tensor, key: Tensor, distances: Tensor, embeddings: Tensor
) -> Tensor:
    """Return the terms [B, H, T, T] in which the distance of two tokens takes part, before they are scaled.

    Args:
        module: the attention.
        query: [B, H, T, D].
        key: [B, H, T, D].
        distances: i - j, or the bucket it falls into [1, T, T].
        embeddings: of the distances [B or 1, R, d], from the lowest to the highest.
    """
    span = module.pos_ebd_size
    embeddings = embeddings[:, : 2 * span]
    shared = module.share_att_key
    shape = (*query.shape[:3], query.shape[2])
    found = query.new_zeros(shape)
    if "c2p" in module.pos_att_type:
        position_key = _heads(module, module.key_proj if shared else module.pos_key_proj, embeddings)
        index = (distances[:, None] + span).clamp(0, 2 * span - 1).expand(shape)
        found = found + (query @ position_key.mT).gather(-1, index)
    if "p2c" in module.pos_att_type:
        position_query = _heads(module, module.query_proj if shared else module.pos_query_proj, embeddings)
        index = (span - distances[:, None]).clamp(0, 2 * span - 1).expand(shape)
        found = found + (key @ position_query.mT).gather(-1, index).mT
    return found


def _heads(module: DisentangledSelfAttention, linear: nn.Module, inputs: Tensor) -> Tensor:
    """Return what ``linear`` makes of ``inputs`` [B, T, d], by head [B, H, T, D]."""
    outputs: Tensor = linear(inputs)
    return outputs.view(*outputs.shape[:-1], module.num_attention_heads, -1).transpose(1, 2)
