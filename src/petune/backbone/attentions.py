"""The attention modules of any transformer, and what each of them attends to, read off its module tree."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from petune.backbone.kind import kind_of

AttentionKind = Literal["encoder", "decoder", "cross"]
"""Self-attention of an encoder, self-attention of a decoder, or a decoder's attention to the encoder."""


@dataclass(frozen=True)
class Attention:
    """One attention module of a base model: the one that calls the attention function.

    Attributes:
        path: module path below the model.
        block: index into the structure's blocks.
        num_heads: heads of its queries.
        num_kv_heads: heads of its keys and values.
        head_dim: width of one head.
        kind: what attends to what.
    """

    path: str
    block: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    kind: AttentionKind = "decoder"


def find_attentions(model: PreTrainedModel, blocks: tuple[str, ...]) -> tuple[Attention, ...]:
    """Return every attention module in the ``blocks`` of ``model`` once, in module order."""
    return tuple(_attentions(model, blocks))


def _attentions(model: PreTrainedModel, blocks: tuple[str, ...]) -> Iterator[Attention]:
    config = model.config.get_text_config()
    kind = kind_of(model.config)
    for index, block in enumerate(blocks):
        side: AttentionKind = "encoder" if kind == "encoder" or _in_encoder(block, kind) else "decoder"
        sizes = _heads(config, side)
        for path, module in model.get_submodule(block).named_modules(prefix=block):
            inner = any(_is_attention(child) for child in module.modules() if child is not module)
            if _is_attention(module) and not inner:
                crosses = side == "decoder" and _looks_across(path.removeprefix(block))
                yield Attention(path, index, *sizes, "cross" if crosses else side)


def _in_encoder(block: str, kind: str) -> bool:
    return kind == "encoder-decoder" and "encoder" in block.split(".")


def _looks_across(inside: str) -> bool:
    """Whether an attention of a decoder block is the one to the encoder: they are named for it everywhere."""
    return "enc" in inside.lower() or "cross" in inside.lower()


def _heads(config: PreTrainedConfig, side: AttentionKind) -> tuple[int, int, int]:
    """Return query heads, key-value heads and the width of one; an encoder-decoder's two sides may differ."""
    own = getattr(config, f"{side}_attention_heads", None)
    heads = own or config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or (1 if _shares_keys(config) else heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, kv_heads, head_dim


def _shares_keys(config: PreTrainedConfig) -> bool:
    """Whether all heads have one key and one value; Falcon's newer blocks, whatever else is set, have them by head."""
    return bool(getattr(config, "multi_query", False)) and not getattr(config, "new_decoder_architecture", False)


def _is_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__
