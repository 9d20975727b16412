"""The attention modules of any transformer, and what each of them attends to, read off its module tree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from petune.backbone.kind import kind_of
from petune.errors import BaseModelError

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
        head_dim: width of a head's query and key.
        value_dim: width of its value.
        kind: what attends to what.
    """

    path: str
    block: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    kind: AttentionKind = "decoder"


def find_attentions(model: PreTrainedModel, blocks: tuple[str, ...]) -> tuple[Attention, ...]:
    """Return every attention module in the ``blocks`` of ``model`` once, in module order.

    Raises:
        BaseModelError: an attention has no heads.
    """
    return tuple(_attentions(model, blocks))


def are_alike(attentions: Sequence[Attention]) -> bool:
    """Say whether the keys and the values of all ``attentions`` have the same heads and the same width."""
    return len({(a.num_kv_heads, width) for a in attentions for width in (a.head_dim, a.value_dim)}) == 1


def _attentions(model: PreTrainedModel, blocks: tuple[str, ...]) -> Iterator[Attention]:
    config = model.config.get_text_config()
    kind = kind_of(model.config)
    for index, block in enumerate(blocks):
        side: AttentionKind = "encoder" if kind == "encoder" or _in_encoder(block, kind) else "decoder"
        if _is_linear(config, block):
            continue
        for path, module in model.get_submodule(block).named_modules(prefix=block):
            inner = any(_is_attention(child) for child in module.modules() if child is not module)
            if _is_attention(module) and not inner:
                crosses = side == "decoder" and _looks_across(path.removeprefix(block))
                yield Attention(path, index, *_heads(config, side, module), "cross" if crosses else side)


def attends_only(model: PreTrainedModel, blocks: Sequence[str], attentions: Sequence[Attention]) -> bool:
    """Say whether every block has an attention, and the model keeps no state beside keys and values."""
    return not model._is_stateful and {a.block for a in attentions} == set(range(len(blocks)))


def _is_linear(config: PreTrainedConfig, block: str) -> bool:
    """Say whether what a block calls attention has a state in place of keys and values."""
    kinds, number = getattr(config, "layer_types", None) or (), block.rpartition(".")[2]
    return number.isdecimal() and kinds[int(number) : int(number) + 1] == ["linear_attention"]


def _in_encoder(block: str, kind: str) -> bool:
    return kind == "encoder-decoder" and "encoder" in block.split(".")


def _looks_across(inside: str) -> bool:
    """Whether an attention of a decoder block is the one to the encoder: they are named for it everywhere."""
    return "enc" in inside.lower() or "cross" in inside.lower()


def _heads(config: PreTrainedConfig, side: AttentionKind, module: nn.Module) -> tuple[int, int, int, int]:
    """Return query heads, key-value heads, and the widths of a key and a value; layers and sides of a model may differ.

    What the ``module`` itself says comes first.

    Raises:
        BaseModelError: no number of heads is told, as of RWKV, whose attentions have a state in place of them.
    """
    if getattr(config, "is_heterogeneous", False):
        config = config.per_layer_config[module.layer_idx]
    heads = getattr(config, f"{side}_attention_heads", None) or getattr(config, "num_attention_heads", None)
    if not heads:
        raise BaseModelError(
            f"{type(module).__name__} has no heads ({type(config).__name__} tells no number of them), and methods need"
            " to know what an attention reads; use a base whose attentions have keys and values, or Mamba"
        )
    groups = getattr(module, "num_key_value_groups", None)
    kv_heads = getattr(config, "num_key_value_heads", None) or (1 if _shares_keys(config) else heads)
    told = (getattr(module, name, None) for name in ("qk_head_dim", "head_dim", "attention_head_size"))
    own = next((width for width in told if width), None)
    head_dim = own or getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, heads // groups if groups else kv_heads, head_dim, getattr(module, "v_head_dim", None) or head_dim


def _shares_keys(config: PreTrainedConfig) -> bool:
    """Whether all heads have one key and one value; Falcon's newer blocks, whatever else is set, have them by head."""
    return bool(getattr(config, "multi_query", False)) and not getattr(config, "new_decoder_architecture", False)


def _is_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__
