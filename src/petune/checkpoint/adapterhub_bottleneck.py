"""Bottleneck adapters in the folders of AdapterHub's library: Houlsby's, Pfeiffer's and parallel ones.

``<place>.adapters.<name>.adapter_down.0.weight`` [m, d], ``adapter_up.weight`` [d, m] and their biases. The place is
the module that ends the sub-layer (BERT, T5) or a name beside it (``attention_adapters``). A sequential adapter of
theirs adds up(f(down(z))) to y; z is y (``original_ln_before`` false) or the residual stream behind the sub-layer.
"""

import re
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.sublayers import SubLayer, sub_layers
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
)
from petune.errors import AdapterFormatError

_BESIDE = {
    "mh_adapter": "attention_adapters",
    "output_adapter": "output_adapters",
    "cross_adapter": "cross_attention_adapters",
}
"""What a place is called where it is no module of the model, by the field that asks for adapters there."""

_PARTS = {
    "adapter_down.0.weight": "down_weight",
    "adapter_down.0.bias": "down_bias",
    "adapter_up.weight": "up_weight",
    "adapter_up.bias": "up_bias",
}
_SCALING = "scaling"


@final
class BottleneckHubLayout(HubLayout):
    """Bottleneck adapters."""

    architecture = None
    followed = (
        "mh_adapter", "output_adapter", "cross_adapter", "reduction_factor", "non_linearity", "is_parallel", "scaling",
        "original_ln_before", "leave_out",
    )  # fmt: skip
    neutral: Mapping[str, Rule] = {
        "original_ln_after": lambda value: value is True,
        "residual_before_ln": lambda value: value is True,
        **dict.fromkeys(("ln_before", "ln_after", "use_gating", "inv_adapter", "phm_layer"), switched_off),
        # Of training, or of what is switched off above.
        **dict.fromkeys(
            (
                "init_weights", "init_weights_seed", "dropout", "stochastic_depth", "adapter_residual_before_ln",
                "inv_adapter_reduction_factor", "phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule",
                "factorized_phm_rule", "phm_c_init", "phm_init_range", "learn_phm", "hypercomplex_nonlinearity",
                "phm_rank", "phm_bias",
            ),
            whatever,
        ),
    }  # fmt: skip

    def options(self, found: HubAdapter, base: Base) -> dict[str, Any]:
        """Return our settings."""
        config = found.config
        self.require_known(config)
        attention, output, cross = (flag(config, f"{place}_adapter") for place in ("mh", "output", "cross"))
        beside = flag(config, "is_parallel")
        if beside and (attention or cross or not output):
            raise AdapterFormatError(
                f"{CONFIG_FILE}: config.is_parallel with adapters at attentions is nothing that petune computes; it has"
                " parallel adapters at the feed-forward layers (output_adapter alone)"
            )
        factor = config["reduction_factor"]
        if isinstance(factor, bool) or not isinstance(factor, int | float):
            raise AdapterFormatError(
                f"{CONFIG_FILE}: config.reduction_factor is {factor!r}; petune has one number for all layers"
            )
        name = str(config["non_linearity"]).lower()
        return {
            "bottleneck_size": None,
            "reduction_factor": factor,
            "non_linearity": "leaky_relu" if name == "leakyrelu" else name,
            "placement": "parallel" if beside else "houlsby" if attention or cross else "pfeiffer",
            "adapter_input": "residual" if beside or flag(config, "original_ln_before") else "sub_layer",
            "scaling": 1.0 if _learned(config) else config["scaling"],
            "train_layer_norms": False,
        }

    def to_own(self, found: HubAdapter, adapter: Adapter, base: Base) -> dict[str, Tensor]:
        """Return the tensors of each sub-layer; zeros, which add nothing, where AdapterHub has no adapter.

        A learned scale becomes part of W_up and b_up.
        """
        places = _Places(found, base)
        own = adapter.tensors()
        ours: dict[str, Tensor] = {}
        scales: dict[str, Tensor] = {}
        for name, tensor in found.tensors.items():
            match = re.fullmatch(rf"(.*)\.adapters\.{re.escape(found.name)}\.(.*)", name)
            path = None if match is None else places.expected.get(match[1])
            if match is None or path is None:
                raise unexpected(name)
            if match[2] == _SCALING and _learned(found.config):
                scales[path] = tensor
            elif match[2] in _PARTS:
                ours[f"{path}.{_PARTS[match[2]]}"] = tensor
            else:
                raise unexpected(name)
        for path in set(places.expected.values()) if _learned(found.config) else ():
            _scale_up(ours, path, scales.get(path))
        for name, tensor in own.items():
            if name.rpartition(".")[0] in places.empty:
                ours[name] = torch.zeros_like(tensor)
        return ours


@final
class _Places:
    """Where adapters are expected.

    Attributes:
        expected: path of the sub-layer's last linear, by each name that the place may have in AdapterHub's files.
        empty: paths of last linears where there are none.
    """

    def __init__(self, found: HubAdapter, base: Base) -> None:
        left_out = layers_left_out(found.config, base)
        self.expected: dict[str, str] = {}
        self.empty: set[str] = set()
        for layer in sub_layers(base.model, base.structure):
            field, block = _field(layer, base), layer.last.block
            assert block is not None, "sub-layers lie in blocks"
            if not found.config[field] or block in left_out:
                self.empty.add(layer.last.path)
                continue
            outer = base.structure.blocks[block]
            self.expected[f"{below_head(outer, base)}.{_BESIDE[field]}"] = layer.last.path
            above = layer.last.path.rpartition(".")[0]
            while above != outer:
                self.expected.setdefault(below_head(above, base), layer.last.path)
                above = above.rpartition(".")[0]


def _field(layer: SubLayer, base: Base) -> str:
    """Return the field that asks for adapters behind a sub-layer."""
    if layer.role == "mlp":
        return "output_adapter"
    across = [attention.path for attention in base.structure.attentions if attention.kind == "cross"]
    return "cross_adapter" if any(layer.last.path.startswith(f"{path}.") for path in across) else "mh_adapter"


def _learned(config: Mapping[str, Any]) -> bool:
    return config["scaling"] in ("learned", "channel")


def _scale_up(ours: dict[str, Tensor], path: str, scale: Tensor | None) -> None:
    """Multiply W_up and b_up of the adapter at ``path`` by its learned ``scale`` [1] or [d]."""
    weight, bias = ours.get(f"{path}.up_weight"), ours.get(f"{path}.up_bias")
    if weight is None or bias is None or weight.ndim != 2:
        return  # said when the tensors are loaded
    if scale is None or scale.shape not in ((1,), (len(weight),)):
        got = "is missing" if scale is None else f"has shape {list(scale.shape)}"
        raise AdapterFormatError(
            f"{WEIGHTS_FILE}: the learned scaling of '{path}' {got}, expected [1] or [{len(weight)}]"
        )
    ours[f"{path}.up_weight"], ours[f"{path}.up_bias"] = weight * scale[:, None], bias * scale
