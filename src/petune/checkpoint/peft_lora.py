"""LoRA in HF PEFT's files."""

import math
import re
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.structure import Structure
from petune.backbone.targets import first_matching
from petune.checkpoint.peft_layout import CONFIG_FILE, PREFIX, WEIGHTS_FILE, Layout, Rule, switched_off
from petune.checkpoint.peft_names import excluded, leaf, names_of_merged_experts, shortest_names, that_match
from petune.errors import AdapterFormatError, TargetError


@final
class LoRALayout(Layout):
    """LoRA: ``base_model.model.<module>.lora_A.weight`` [r, d_in] and ``lora_B.weight`` [d_out, r].

    Of embeddings ``lora_embedding_A`` [r, V], ``lora_embedding_B`` [d, r]; of DoRA ``lora_magnitude_vector`` [d_out].
    """

    peft_type = "LORA"
    besides = frozenset({"modules_to_save", "trainable_token_indices"})

    # Fields without a counterpart: the value with which PEFT computes what petune does.
    neutral: Mapping[str, Rule] = {
        "bias": lambda value: value == "none",
        # How A and B started does not matter once they are trained, except for the starts that changed the base.
        "init_lora_weights": lambda value: not isinstance(value, str) or value in ("gaussian", "eva", "orthogonal"),
        "eva_config": lambda _: True,
        "fan_in_fan_out": lambda value: isinstance(value, bool),
        "qalora_group_size": lambda _: True,
        "lora_ga_config": switched_off,
        **dict.fromkeys(
            (
                "megatron_config", "loftq_config", "corda_config", "velora_config",
                "alora_invocation_tokens", "use_qalora", "monteclora_config", "layer_replication", "lora_bias",
                "target_parameters", "use_bdlora", "arrow_config", "kasa_config", "ensure_weight_tying",
            ),
            switched_off,
        ),
    }  # fmt: skip
    followed = (
        "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "exclude_modules",
        "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    )  # fmt: skip
    left_out: Mapping[str, Any] = {"r": 8, "lora_alpha": 8}
    """What PEFT takes for fields that a file lacks, where it is not what our settings have."""
    _CHANGED_BASE = re.compile(r"pissa.*|olora|corda|loftq|lora_ga")

    def fits(self, adapter: Adapter, structure: Structure) -> bool:
        """Say whether every linear has a name that PEFT takes for it."""
        return names_of_merged_experts(structure).isdisjoint(map(leaf, adapter.slots))

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's LoRA fields; the chosen modules are listed as PEFT will match them."""
        settings = adapter.config.model_dump()
        return {
            "r": settings["r"],
            "lora_alpha": _whole(settings["lora_alpha"]),
            "lora_dropout": settings["lora_dropout"],
            "use_rslora": settings["use_rslora"],
            "use_dora": settings["use_dora"],
            "target_modules": shortest_names(list(adapter.slots), structure),
            "exclude_modules": None,
            "layers_to_transform": None,
            "layers_pattern": None,
            "rank_pattern": settings["rank_pattern"] or {},
            "alpha_pattern": {name: _whole(alpha) for name, alpha in (settings["alpha_pattern"] or {}).items()},
            "fan_in_fan_out": any(linear.transposed for linear in structure.linears if linear.path in adapter.slots),
            "bias": "none",
            "init_lora_weights": True,
        }

    def refusal(self, config: Mapping[str, Any]) -> str | None:
        """Return why petune cannot do what PEFT's ``config`` asks for, and what to do about it."""
        refusal, start = super().refusal(config), config.get("init_lora_weights")
        if refusal is None or not self._CHANGED_BASE.fullmatch(str(start).lower()):
            return refusal
        return (
            f"{refusal}: it changed the base when it started; save the adapter with PEFT's"
            " path_initial_model_for_weight_conversion, which makes it one for the base as it is"
        )

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return our LoRA settings."""
        self.require_known(config)
        given = {field: config[field] for field in self.followed if config.get(field) not in (None, {}, [], "")}
        options = {**self.left_out, **given}
        if "target_modules" not in options:
            raise AdapterFormatError(f"{CONFIG_FILE}: 'target_modules' is missing")
        if isinstance(options.get("layers_to_transform"), int):
            options["layers_to_transform"] = (options["layers_to_transform"],)
        if "layers_to_transform" in options and "layers_pattern" not in options:
            options |= _of_each_stack(structure)
        if isinstance(options["target_modules"], list):  # PEFT lets names in a list match nothing
            names = that_match(options["target_modules"], structure)
            options["target_modules"] = names or tuple(options["target_modules"])
        if "exclude_modules" in options:
            options["exclude_modules"] = excluded(options["exclude_modules"], structure)
        for field in ("rank_pattern", "alpha_pattern"):  # and patterns too
            if isinstance(options.get(field), dict):
                options[field] = _used(field, options, structure)
        return options

    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``base_model.model.<module>.lora_A.weight`` and so on."""
        return {
            f"{PREFIX}{name}{'.weight' if name.endswith(('.lora_A', '.lora_B')) else ''}": tensor
            for name, tensor in adapter.tensors().items()
        }

    def from_file(self, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``<module>.lora_A`` and so on."""
        for name in tensors:
            if not name.startswith(PREFIX) or not name.endswith(_ENDS):
                raise AdapterFormatError(f"{WEIGHTS_FILE}: tensor '{name}' is none that petune's LoRA has")
        return {name.removeprefix(PREFIX).removesuffix(".weight"): tensor for name, tensor in tensors.items()}


_ENDS = (
    ".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector",
)  # fmt: skip


def _of_each_stack(structure: Structure) -> dict[str, Any]:
    """Return what has layers counted in each of several stacks of blocks apart, as PEFT counts them."""
    stacks = dict.fromkeys(block.rpartition(".")[0] for block in structure.blocks)
    names = dict.fromkeys(stack.rpartition(".")[2] for stack in stacks)
    return {"layers_pattern": tuple(names)} if len(stacks) > 1 else {}


def _whole(number: float) -> float:
    """Return a whole number as an int, as PEFT's configs mostly hold it."""
    return int(number) if number == math.floor(number) else number


def _used(field: str, options: Mapping[str, Any], structure: Structure) -> dict[str, Any] | None:
    """Return the patterns of a field that count for a module the adapter has."""
    settings: Mapping[str, Any] = options[field]
    lists, layers = options.get("layers_pattern", ()), options.get("layers_to_transform")
    try:
        chosen = structure.select_with_embeddings(
            options["target_modules"],
            exclude=options.get("exclude_modules", ()),
            layers=layers,
            layers_pattern=(lists,) if isinstance(lists, str) else lists,
        )
        found = {first_matching(settings, module.path, what=field) for module in chosen}
    except TargetError as error:
        raise AdapterFormatError(f"{CONFIG_FILE}: {error}") from error
    return {pattern: value for pattern, value in settings.items() if pattern in found} or None
