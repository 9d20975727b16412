"""What a block is made of: its sub-layers, the linears that make keys and values, and the norms; read off the model."""

import re
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
        last: its last linear, whose output joins the residual stream.
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
        TargetError: the blocks have no linears.
    """
    modules = dict(model.named_modules())
    members: dict[tuple[int, str], list[Linear]] = {}
    for linear in structure.linears:
        if linear.block is not None:
            place = _outermost_attention(modules, structure.blocks[linear.block], linear.path)
            members.setdefault((linear.block, place), []).append(linear)
    if not members:
        raise TargetError("this base has no linears in its blocks, so there are no sub-layers to change")
    return tuple(
        SubLayer("attention" if place else "mlp", linears[0], linears[-1]) for (_, place), linears in members.items()
    )


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
