"""LoRA in the folders of AdapterHub's library.

``<linear>.loras.<name>.lora_A`` [r, d_in] and ``lora_B`` [d_out, r]; the scale is alpha / r. One linear for queries,
keys and values (GPT-2) has an A and a B for each of the n that are adapted, stacked: A [n r, d_in], B [n d_out / 3, r].
Here that is one update of rank n r whose B is zero where an A belongs to another part.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.structure import Linear
from petune.backbone.sublayers import key_value_linears
from petune.checkpoint.adapterhub_layout import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    HubAdapter,
    HubLayout,
    Rule,
    below_head,
    flag,
    layers_left_out,
    switched_off,
    unexpected,
    whatever,
    whole_number,
)
from petune.checkpoint.peft_names import leaf, shortest_names
from petune.errors import AdapterFormatError

_MATRICES = ("q", "k", "v")
_MOST_RANKS = 65536


@final
class LoRAHubLayout(HubLayout):
    """LoRA."""

    architecture = "lora"
    followed = (
        "r", "alpha", "dropout", "attn_matrices", "selfattn_lora", "intermediate_lora", "output_lora", "leave_out",
    )  # fmt: skip
    neutral: Mapping[str, Rule] = {
        "composition_mode": lambda value: value == "add",
        **dict.fromkeys(("use_gating", "use_dora", "vera_d", "vera_b"), switched_off),
        **dict.fromkeys(("init_weights", "init_weights_seed", "dtype"), whatever),
    }

    def options(self, found: HubAdapter, base: Base) -> dict[str, Any]:
        """Return our settings."""
        config = found.config
        self.require_known(config)
        rank, alpha = whole_number(config, "r", most=_MOST_RANKS), config["alpha"]
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise AdapterFormatError(f"{CONFIG_FILE}: config.alpha is {alpha!r}, expected a number")
        adapted = _adapted(found, base)
        _require_all(config, adapted.values(), base)
        options: dict[str, Any] = {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": config["dropout"],
            "target_modules": tuple(shortest_names([linear.path for linear in adapted.values()], base.structure)),
        }
        fused, parts = _fused(base), len(_parts(config))
        names = sorted({leaf(linear.path) for linear in adapted.values() if linear.path in fused})
        if names and parts > 1:
            options["rank_pattern"] = dict.fromkeys(names, parts * rank)
            options["alpha_pattern"] = dict.fromkeys(names, parts * alpha)
        return options

    def to_own(self, found: HubAdapter, adapter: Adapter, base: Base) -> dict[str, Tensor]:
        """Return A and B of each linear."""
        fused, parts = _fused(base), _parts(found.config)
        adapted = _adapted(found, base)
        ours: dict[str, Tensor] = {}
        for name, tensor in found.tensors.items():
            host, _, kind = name.rpartition(".")
            linear = adapted[host]
            if kind == "lora_B" and linear.path in fused:
                tensor = _apart(tensor, linear, parts, name)
            ours[f"{linear.path}.{kind}"] = tensor
        return ours


def _adapted(found: HubAdapter, base: Base) -> dict[str, Linear]:
    """Return the linears that have tensors, by what stands before ``lora_A`` in the tensor's name.

    Raises:
        AdapterFormatError: a tensor is of no linear of the base.
    """
    linears = {below_head(linear.path, base): linear for linear in base.structure.linears}
    adapted = {}
    for name in found.tensors:
        match = re.fullmatch(rf"((.*)\.loras\.{re.escape(found.name)})\.lora_[AB]", name)
        if match is None or match[2] not in linears:
            raise unexpected(name)
        adapted[match[1]] = linears[match[2]]
    return adapted


def _parts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which of queries, keys and values are adapted, in that order.

    Raises:
        AdapterFormatError: they are no list of those.
    """
    chosen = config["attn_matrices"]
    if not isinstance(chosen, list) or any(matrix not in _MATRICES for matrix in chosen):
        raise AdapterFormatError(f"{CONFIG_FILE}: config.attn_matrices is {chosen!r}, expected a list of q, k and v")
    return tuple(matrix for matrix in _MATRICES if matrix in chosen)


def _fused(base: Base) -> frozenset[str]:
    """Return the paths of the linears that make queries, keys and values at once."""
    found = [key_value_linears(base.structure, attention) for attention in base.structure.attentions]
    return frozenset(linears[0].path for linears in found if len(linears) == 1)


def _require_all(config: Mapping[str, Any], adapted: Iterable[Linear], base: Base) -> None:
    """Make sure that every block has as many updates as the config says, at the same places.

    Raises:
        AdapterFormatError: one has more or fewer.
    """
    left_out, fused, parts = layers_left_out(config, base), _fused(base), _parts(config)
    unique = {linear.path: linear for linear in adapted}.values()
    counts: Counter[tuple[int | None, str]] = Counter((linear.block, linear.role) for linear in unique)
    for block in range(base.structure.num_blocks):
        own = [attention for attention in base.structure.attentions if attention.block == block]
        each = 1 if fused else len(parts)
        expected = {
            "attention": each * len(own) if flag(config, "selfattn_lora") and parts else 0,
            "mlp": flag(config, "intermediate_lora") + flag(config, "output_lora"),
        }
        for role, number in expected.items():
            number = 0 if block in left_out else number
            if (got := counts.pop((block, role), 0)) != number:
                raise AdapterFormatError(
                    f"{WEIGHTS_FILE}: block {block} has {got} updates of role {role}, {CONFIG_FILE} asks for {number};"
                    " restore both from one copy"
                )
    if counts:
        outside = next(linear.path for linear in unique if (linear.block, linear.role) in counts)
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: '{outside}' lies outside the blocks, where {CONFIG_FILE} asks for none"
        )


def _apart(stacked: Tensor, linear: Linear, parts: tuple[str, ...], name: str) -> Tensor:
    """Return B [d_out, n r] of a fused linear, each part's own block of ``stacked`` [n d_out / 3, r] in its place."""
    width, count = linear.out_features // 3, len(parts)
    if stacked.ndim != 2 or stacked.shape[0] != width * count:
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: tensor '{name}' has shape {list(stacked.shape)}, expected {width * count} rows"
        )
    rank = stacked.shape[1]
    apart = stacked.new_zeros(linear.out_features, count * rank)
    for index, matrix in enumerate(parts):
        start = _MATRICES.index(matrix) * width
        apart[start : start + width, index * rank : (index + 1) * rank] = stacked[index * width : (index + 1) * width]
    return apart
