"""LoRA in HF PEFT's files."""

import math
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.structure import Structure
from petune.checkpoint.peft_layout import CONFIG_FILE, PREFIX, WEIGHTS_FILE, Layout, Rule, switched_off
from petune.checkpoint.peft_names import shortest_names, that_match
from petune.errors import AdapterFormatError


@final
class LoRALayout(Layout):
    """LoRA: ``base_model.model.<module>.lora_A.weight`` [r, d_in] and ``lora_B.weight`` [d_out, r]."""

    peft_type = "LORA"

    # Fields without a counterpart: the value with which PEFT computes plain LoRA.
    neutral: Mapping[str, Rule] = {
        "bias": lambda value: value == "none",
        # How A and B started does not matter once they are trained, except for the starts that changed the base.
        "init_lora_weights": lambda value: not isinstance(value, str) or value in ("gaussian", "eva", "orthogonal"),
        "eva_config": lambda _: True,
        "fan_in_fan_out": lambda value: isinstance(value, bool),
        "qalora_group_size": lambda _: True,
        "ensure_weight_tying": lambda value: isinstance(value, bool),
        **dict.fromkeys(
            (
                "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config",
                "trainable_token_indices", "loftq_config", "corda_config", "lora_ga_config", "use_dora",
                "velora_config", "alora_invocation_tokens", "use_qalora", "monteclora_config", "layer_replication",
                "lora_bias", "target_parameters", "use_bdlora", "arrow_config", "kasa_config",
            ),
            switched_off,
        ),
    }  # fmt: skip
    followed = (
        "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform",
    )  # fmt: skip

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's LoRA fields; the chosen linears are listed as PEFT will match them."""
        settings = adapter.config.model_dump()
        alpha = settings["lora_alpha"]
        paths = list(adapter.slots)
        return {
            "r": settings["r"],
            "lora_alpha": int(alpha) if alpha == math.floor(alpha) else alpha,
            "lora_dropout": settings["lora_dropout"],
            "use_rslora": settings["use_rslora"],
            "target_modules": shortest_names(paths, structure),
            "exclude_modules": None,
            "layers_to_transform": None,
            "fan_in_fan_out": any(linear.transposed for linear in structure.linears if linear.path in adapter.slots),
            "bias": "none",
            "rank_pattern": {},
            "alpha_pattern": {},
            "use_dora": False,
            "init_lora_weights": True,
        }

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return our LoRA settings."""
        self.require_known(config)
        options = {field: config[field] for field in self.followed if config.get(field) is not None}
        if "target_modules" not in options:
            raise AdapterFormatError(f"{CONFIG_FILE}: 'target_modules' is missing")
        if isinstance(options.get("layers_to_transform"), int):
            options["layers_to_transform"] = (options["layers_to_transform"],)
        for field in ("target_modules", "exclude_modules"):  # PEFT lets names in a list match nothing
            if isinstance(options.get(field), list):
                names = that_match(options[field], structure)
                options[field] = names if names or field == "exclude_modules" else tuple(options[field])
        return options

    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``base_model.model.<module>.lora_A.weight`` and so on."""
        return {f"{PREFIX}{name}.weight": tensor for name, tensor in adapter.tensors().items()}

    def from_file(self, tensors: Mapping[str, Tensor], structure: Structure) -> dict[str, Tensor]:
        """Return ``<module>.lora_A`` and so on."""
        for name in tensors:
            if not name.startswith(PREFIX) or not name.endswith((".lora_A.weight", ".lora_B.weight")):
                raise AdapterFormatError(f"{WEIGHTS_FILE}: tensor '{name}' is not of plain LoRA, which petune reads")
        return {name.removeprefix(PREFIX).removesuffix(".weight"): tensor for name, tensor in tensors.items()}
