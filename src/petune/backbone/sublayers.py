"""What a block is made of: its sub-layers, the linears that make keys and values, and the norms; read off the model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from petune.backbone.attentions import Attention
from petune.backbone.structure import Linear, Structure
from petune.errors import TargetError

_KEY = re.compile(r"w?k(ey)?(_(proj|lin|layer))?", re.IGNORECASE)
_VALUE = re.compile(r"w?v(alue)?(_(proj|lin|layer))?", re.IGNORECASE)


@dataclass(frozen=True)
class SubLayer:
    """One sub-layer of a block: an attention (an encoder-decoder's decoder has two a block) or the feed-forward one.

    Attributes:
        role: what it is.
        first: its first linear, which reads the sub-layer's input.
        last: its last linear as wide as the residual stream, which its output joins.
    """

    role: Literal["attention", "mlp"]
    first: Linear
    last: Linear


@dataclass(frozen=True)
class Norm:
    """One layer norm (or RMS norm) over the residual stream: its module path, width, and whether it has a shift."""

    path: str
    width: int
    has_bias: bool


def sub_layers(model: PreTrainedModel, structure: Structure) -> tuple[SubLayer, ...]:
    """Return the sub-layers of all blocks, in module order.

    Raises:
        TargetError: the blocks have no linears, none beside attentions, or the output of a sub-layer is that of none.
    """
    if structure.experts:
        raise TargetError(
            f"'{structure.experts[0]}' holds experts, of which each token goes through some, so the output of a"
            " feed-forward layer is that of no linear and there is none to change; methods that change attentions or"
            " chosen linears (target_modules) work on this base"
        )
    modules = dict(model.named_modules())
    members: dict[tuple[int, str], list[Linear]] = {}
    for linear in structure.linears:
        if linear.block is not None:
            place = _outermost_attention(modules, structure.blocks[linear.block], linear.path)
            members.setdefault((linear.block, place), []).append(linear)
    if not members:
        raise TargetError("this base has no linears in its blocks, so there are no sub-layers to change")
    if all(place for _, place in members):
        raise TargetError(
            "the blocks of this base have no linears beside their attentions, so there is no feed-forward layer to"
            " change; methods that change attentions or chosen linears (target_modules) work on it"
        )
    width = structure.hidden_size
    return tuple(_sub_layer("attention" if place else "mlp", linears, width) for (_, place), linears in members.items())


def key_value_linears(structure: Structure, attention: Attention) -> tuple[Linear, ...]:
    """Return the linears that make an attention's keys and values: one for each, or the one that makes queries too.

    Raises:
        TargetError: neither can be told from the attention's linears.
    """
    inside = [linear for linear in structure.linears if linear.path.startswith(f"{attention.path}.")]
    keys, values = (
        [linear for linear in inside if pattern.fullmatch(linear.path.rpartition(".")[2])] for pattern in (_KEY, _VALUE)
    )
    if len(keys) == len(values) == 1:
        return keys[0], values[0]
    fused = [linear for linear in inside if _makes_all_three(linear, attention)]
    if len(fused) == 1:
        return (fused[0],)
    found = ", ".join(linear.path.rpartition(".")[2] for linear in inside) or "none"
    raise TargetError(
        f"the linears that make keys and values cannot be told in '{attention.path}' (its linears: {found}); expected"
        " one of each (k_proj and v_proj, say), or one that makes queries, keys and values. Methods that change the"
        " outputs of chosen linears work on this base"
    )


def norms(model: PreTrainedModel, structure: Structure) -> tuple[Norm, ...]:
    """Return every norm over the residual stream; norms of single heads are narrower and left out."""
    width = structure.hidden_size
    return tuple(
        Norm(path, width, module._parameters.get("bias") is not None)
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__ and _is_over(module, width)
    )


def _sub_layer(role: Literal["attention", "mlp"], linears: Sequence[Linear], width: int) -> SubLayer:
    """Return the sub-layer of these ``linears``, in module order, beside a residual stream of ``width``."""
    last = next((linear for linear in reversed(linears) if linear.out_features == width), None)
    if last is None:
        found = ", ".join(f"'{linear.path}' ({linear.out_features})" for linear in linears)
        raise TargetError(
            f"no linear of a sub-layer is as wide as the residual stream ({width}): {found}; so none gives its output."
            " Methods that change chosen linears (target_modules) work on this base"
        )
    return SubLayer(role, next((linear for linear in linears if linear is not last), last), last)


def _is_over(module: nn.Module, width: int) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.shape == (width,)


def _makes_all_three(linear: Linear, attention: Attention) -> bool:
    """Say whether a linear is as wide as queries, keys and values together, for some number of key-value heads."""
    groups, rest = divmod(linear.out_features - attention.num_heads * attention.head_dim, 2 * attention.head_dim)
    return groups > 0 and not rest and not attention.num_heads % groups


def _outermost_attention(modules: dict[str, nn.Module], block: str, path: str) -> str:
    """Return the path of the first module named for attention between ``block`` and ``path``; empty if none is."""
    parts = path.removeprefix(f"{block}.").split(".")
    for end in range(1, len(parts) + 1):
        ancestor = ".".join((block, *parts[:end]))
        if "Attention" in type(modules[ancestor]).__name__:
            return ancestor
    return ""
