"""IA3 in HF PEFT's files."""

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from petune.adapter import Adapter
from petune.backbone.structure import Structure
from petune.checkpoint.peft_layout import CONFIG_FILE, PREFIX, WEIGHTS_FILE, Layout, Rule
from petune.checkpoint.peft_names import excluded, leaf, shortest_names, that_match
from petune.errors import AdapterFormatError
from petune.sites.output import OutputSlot

_SUFFIX = ".ia3_l"


@final
class IA3Layout(Layout):
    """IA3: ``base_model.model.<module>.ia3_l``, [d_out, 1], or [1, d_in] for feed-forward modules."""

    peft_type = "IA3"
    neutral: Mapping[str, Rule] = {
        "fan_in_fan_out": lambda value: isinstance(value, bool),
        "init_ia3_weights": lambda value: isinstance(value, bool),
    }
    followed = ("target_modules", "exclude_modules", "feedforward_modules")

    def config(self, adapter: Adapter, structure: Structure) -> dict[str, Any]:
        """Return PEFT's IA3 fields; the chosen linears are listed as PEFT will match them."""
        inputs = _with_scaled_input(adapter)
        targets, feedforward = shortest_names(list(adapter.slots), structure), sorted({leaf(path) for path in inputs})
        outputs = adapter.slots.keys() - inputs
        if not set(feedforward) <= set(targets) or any(path.endswith(tuple(feedforward)) for path in outputs):
            targets, feedforward = sorted(adapter.slots), sorted(inputs)
        return {
            "target_modules": targets,
            "feedforward_modules": feedforward,
            "exclude_modules": None,
            "fan_in_fan_out": any(linear.transposed for linear in structure.linears if linear.path in adapter.slots),
            "init_ia3_weights": True,
        }

    def options(self, config: Mapping[str, Any], structure: Structure) -> dict[str, Any]:
        """Return our IA3 settings."""
        self.require_known(config)
        for field in ("target_modules", "feedforward_modules"):
            if config.get(field) is None:
                raise AdapterFormatError(f"{CONFIG_FILE}: '{field}' is missing")
        options = {field: config[field] for field in self.followed if config.get(field) is not None}
        for field, value in options.items():
            if field == "exclude_modules":
                options[field] = excluded(value, structure)
            elif isinstance(value, list):
                names = that_match(value, structure)
                options[field] = names if names or field != "target_modules" else tuple(value)
        return options

    def to_file(self, adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``base_model.model.<module>.ia3_l``."""
        inputs = _with_scaled_input(adapter)
        file: dict[str, Tensor] = {}
        for name, factor in adapter.tensors().items():
            path = name.rpartition(".")[0]
            file[f"{PREFIX}{path}{_SUFFIX}"] = factor[None] if path in inputs else factor[:, None]
        return file

    def from_file(self, tensors: Mapping[str, Tensor], adapter: Adapter, structure: Structure) -> dict[str, Tensor]:
        """Return ``<module>.factor``."""
        for name, tensor in tensors.items():
            if not name.startswith(PREFIX) or not name.endswith(_SUFFIX) or tensor.ndim != 2 or 1 not in tensor.shape:
                raise AdapterFormatError(
                    f"{WEIGHTS_FILE}: tensor '{name}' {list(tensor.shape)} is not of IA3, whose tensors are called"
                    f" <module>{_SUFFIX} and have shape [d_out, 1] or [1, d_in]"
                )
        return {f"{n.removeprefix(PREFIX).removesuffix(_SUFFIX)}.factor": t.flatten() for n, t in tensors.items()}


def _with_scaled_input(adapter: Adapter) -> set[str]:
    """Return the paths of the linears whose input is scaled."""
    return {path for path, slot in adapter.slots.items() if isinstance(slot, OutputSlot) and slot.changes_input}
