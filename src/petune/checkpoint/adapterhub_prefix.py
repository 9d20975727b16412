"""Prefixes in the folders of AdapterHub's library, learned directly ("flat") or through its network.

``prefix_tuning.prefix_tunings.<name>.<group>.control_trans`` holds one number after another: virtual token, layer, key
or value, head, width. With the network there are ``wte.weight`` [P, d] and the two linears of ``control_trans``; what
they compute is computed once here, as petune keeps what its own network computes. Real tokens keep their positions.

Shapes: P virtual tokens, L layers of a group, K key-value heads, D head width, d hidden width.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.activations import ACT2FN

from petune.adapter import Adapter
from petune.backbone.attentions import Attention, are_alike
from petune.backbone.base import Base
from petune.checkpoint.adapterhub_layout import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    HubAdapter,
    HubLayout,
    Rule,
    switched_off,
    unexpected,
    whatever,
    whole_number,
)
from petune.errors import AdapterFormatError, nearest

_FLAT = "control_trans"
_NETWORK = (
    "wte.weight",
    "control_trans.0.weight",
    "control_trans.0.bias",
    "control_trans.2.weight",
    "control_trans.2.bias",
)
_MOST_TOKENS = 4096


@final
class PrefixHubLayout(HubLayout):
    """Prefix tuning."""

    architecture = "prefix_tuning"
    followed = ("prefix_length", "non_linearity")
    neutral: Mapping[str, Rule] = {
        # Whether there is a network is told by the tensors: the library itself leaves the field as it was.
        **dict.fromkeys(("flat", "bottleneck_size", "dropout", "shared_gating", "init_weights_seed"), whatever),
        **dict.fromkeys(("leave_out", "use_gating"), switched_off),
        **dict.fromkeys(("encoder_prefix", "cross_prefix"), lambda value: isinstance(value, bool)),
    }

    def options(self, found: HubAdapter, base: Base) -> dict[str, Any]:
        """Return our settings."""
        self.require_known(found.config)
        if getattr(base.model.config, "relative_attention_num_buckets", None):
            # There the library moves the keys of real tokens by the prefix, and not their queries.
            raise AdapterFormatError(
                f"{CONFIG_FILE}: the library's prefixes on a {base.model.config.model_type} count distances between"
                " tokens in a way that petune does not; its other adapters can be read on this base"
            )
        if not are_alike(base.structure.attentions):
            raise AdapterFormatError(
                f"{WEIGHTS_FILE}: the library's prefixes have keys and values of one size, and those of this base"
                " differ in their heads or widths; its other adapters can be read on this base"
            )
        if base.structure.kind == "encoder-decoder":
            off = next((f for f in ("encoder_prefix", "cross_prefix") if found.config.get(f) is not True), None)
            if off is not None:
                raise AdapterFormatError(
                    f"{CONFIG_FILE}: config.{off} is not true; petune's prefixes are at every attention of an"
                    " encoder-decoder"
                )
        length = whole_number(found.config, "prefix_length", most=_MOST_TOKENS)
        return {"num_virtual_tokens": length, "shift_positions": False}

    def to_own(self, found: HubAdapter, adapter: Adapter, base: Base) -> dict[str, Tensor]:
        """Return keys and values [K, P, D] of each attention."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in found.tensors.items():
            start = rf"(?:.*\.)?prefix_tuning\.prefix_tunings\.{re.escape(found.name)}"
            match = re.fullmatch(rf"{start}\.([^.]+)\.(.*)", name)
            if match is None:
                raise unexpected(name)
            groups.setdefault(match[1], {})[match[2]] = tensor
        attentions = _by_group(base)
        if groups.keys() != attentions.keys():
            raise AdapterFormatError(
                f"{WEIGHTS_FILE} holds prefixes for {', '.join(sorted(groups)) or 'nothing'}, this base needs"
                f" {', '.join(sorted(attentions))}"
            )
        length = whole_number(found.config, "prefix_length", most=_MOST_TOKENS)
        ours: dict[str, Tensor] = {}
        for group, tensors in groups.items():
            ours |= _split(_flat(tensors, group, found.config), attentions[group], length, group)
        return ours


def _by_group(base: Base) -> dict[str, list[Attention]]:
    """Return the attentions that share one tensor, by what the library calls the group."""
    if base.structure.kind != "encoder-decoder":
        return {"self_prefix": list(base.structure.attentions)}
    kinds = {"encoder_prefix": "encoder", "self_prefix": "decoder", "cross_prefix": "cross"}
    return {group: [a for a in base.structure.attentions if a.kind == kind] for group, kind in kinds.items()}


def _flat(tensors: Mapping[str, Tensor], group: str, config: Mapping[str, Any]) -> Tensor:
    """Return the numbers of one group, computed where there is a network."""
    if set(tensors) == {_FLAT}:
        return tensors[_FLAT]
    if set(tensors) != set(_NETWORK):
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: the prefix '{group}' has {', '.join(sorted(tensors))}; expected {_FLAT} alone, or"
            f" {', '.join(_NETWORK)}"
        )
    activation = str(config["non_linearity"]).lower()
    if activation not in ACT2FN:
        raise AdapterFormatError(
            f"{CONFIG_FILE}: config.non_linearity is {activation!r}, which transformers does not know."
            f"{nearest(activation, ACT2FN)}"
        )
    embedding, *linears = (tensors[name].float() for name in _NETWORK)
    try:
        inside = ACT2FN[activation](F.linear(embedding, *linears[:2]))
        return F.linear(inside, *linears[2:]).flatten()
    except RuntimeError as error:
        shapes = ", ".join(f"{name} {list(tensors[name].shape)}" for name in _NETWORK)
        raise AdapterFormatError(f"{WEIGHTS_FILE}: the network of '{group}' does not fit together: {shapes}") from error


def _split(flat: Tensor, attentions: Sequence[Attention], length: int, group: str) -> dict[str, Tensor]:
    """Return keys and values [K, P, D] by our names."""
    first = attentions[0]
    shape = (length, len(attentions), 2, first.num_kv_heads, first.head_dim)
    if flat.numel() != torch.Size(shape).numel():
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: the prefix '{group}' has {flat.numel():,} numbers, this base needs"
            f" {torch.Size(shape).numel():,} ({length} tokens x {len(attentions)} layers x 2 x {first.num_kv_heads}"
            f" heads x {first.head_dim})"
        )
    stacked = flat.reshape(shape).permute(1, 2, 3, 0, 4)
    return {
        f"{attention.path}.{name}": stacked[layer, part]
        for layer, attention in enumerate(attentions)
        for part, name in enumerate(("keys", "values"))
    }
