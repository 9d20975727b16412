"""What LoRA adapts where a script names no modules: the query and value projections, or the fused projection."""

import re

from petune.backbone.structure import Structure
from petune.backbone.targets import leaf_name
from petune.errors import TargetError

_QUERY, _VALUE = (
    re.compile(rf"({letter}|{word})(_proj|_lin|_linear)?") for letter, word in (("q", "query"), ("v", "value"))
)

_MORE = {"nemotron_h": ("k_proj", "o_proj"), "phi": ("fc1", "fc2")}
"""Model types for which PEFT's default is wider, with what it adds."""


def default_targets(structure: Structure, model_type: str) -> tuple[str, ...]:
    """Return names of linears, as PEFT's table has them for the architectures it knows.

    Raises:
        TargetError: the base has neither.
    """
    attention = [linear for linear in structure.linears if linear.role == "attention"]
    names = dict.fromkeys(leaf_name(linear.path) for linear in attention)
    query, value = ([name for name in names if kind.fullmatch(name)] for kind in (_QUERY, _VALUE))
    if query and value:
        return (*query, *value, *_MORE.get(model_type, ()))
    # A fused projection is wider than the states it reads: queries alone are as wide as they are.
    fused = dict.fromkeys(leaf_name(x.path) for x in attention if x.out_features > x.in_features)
    if len(fused) == 1:
        return tuple(fused)
    raise TargetError(
        f"a base of type {model_type} has no query and value projections to choose by default; name the linears to"
        f" adapt with target_modules. Its attention has {', '.join(names) or 'none'}"
    )
