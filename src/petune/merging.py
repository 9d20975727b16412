"""Merging adapters into the weights of their base, and taking them out again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.adapter import Adapter
from petune.errors import ConfigError
from petune.sites.output import OutputSlot
from petune.sites.weights import WeightSlot

_UNMERGEABLE = "an adapter of method {} changes activations, not weights, so it cannot be merged; use it as it is"


@dataclass(frozen=True, slots=True)
class _Merge:
    """What taking an adapter out brings back: the base's parameters by path, and whether rows went through it."""

    originals: dict[str, nn.Parameter]
    was_active: bool


@final
class Merges:
    """The adapters that are merged into a base, in order.

    Parameters are exchanged, never changed: those set aside return as they were, because subtracting an update does
    not restore rounded numbers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._done: dict[str, _Merge] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The merged adapters, in order."""
        return tuple(self._done)

    @property
    def set_aside(self) -> dict[str, Tensor]:
        """The base's own parameters of which a sum stands in the model, by path."""
        bare: dict[str, Tensor] = {}
        for merge in reversed(self._done.values()):  # the first to be merged into a weight found the base's own
            bare |= merge.originals
        return bare

    def add(self, adapter: Adapter, *, was_active: bool) -> None:
        """Put the sums of the base's weights and the adapter's change into the model.

        Raises:
            ConfigError: it is merged already, or the method, or the place it is plugged into, cannot be merged.
        """
        if adapter.name in self._done:
            raise ConfigError(f"'{adapter.name}' is merged already")
        merged: dict[str, nn.Parameter] = {}
        for path, slot in adapter.slots.items():
            if isinstance(slot, WeightSlot):
                continue  # its value stands in for the base's weight already
            if not isinstance(slot, OutputSlot):
                raise ConfigError(_UNMERGEABLE.format(adapter.method.name))
            merged |= self._sums(adapter, path, slot)
        originals = {path: self._model.get_parameter(path) for path in merged}
        self._done[adapter.name] = _Merge(originals, was_active)
        self._exchange(merged)

    def take_back(self, name: str) -> bool:
        """Give the base the weights it had before ``name`` was merged; return whether rows went through it then.

        Raises:
            ConfigError: it is not merged, or another was merged after it.
        """
        if name not in self._done:
            raise ConfigError(f"'{name}' is not merged")
        if name != (last := next(reversed(self._done))):
            raise ConfigError(f"'{last}' was merged after '{name}': unmerge '{last}' first")
        merge = self._done.pop(name)
        for path, original in merge.originals.items():  # the model may have moved since
            device = self._model.get_parameter(path).device
            if original.device != device:
                original.data = original.data.to(device)
        self._exchange(merge.originals)
        return merge.was_active

    def forget(self) -> None:
        """Drop what was set aside: the sums are the base's weights from now on."""
        self._done.clear()

    def _sums(self, adapter: Adapter, path: str, slot: OutputSlot) -> dict[str, nn.Parameter]:
        """Return what ``slot`` makes of the parameters at ``path``, by their own paths and all that share them."""
        values = slot.merged_parameters(self._model.get_submodule(path))
        if values is None:
            raise ConfigError(_UNMERGEABLE.format(adapter.method.name))
        tied = {p for p, other in adapter.token_rows.items() if other.tied_to is slot}
        merged: dict[str, nn.Parameter] = {}
        for name, value in values.items():
            parameter = self._model.get_parameter(f"{path}.{name}")
            shared = [n for n, p in self._model.named_parameters(remove_duplicate=False) if p is parameter]
            others = [n for n in shared if n.rpartition(".")[0] not in {path, *tied}]
            if others:
                raise ConfigError(
                    f"'{path}' shares its {name} with {', '.join(others)}: merging would change both. Leave it out with"
                    " exclude_modules, or use the adapter unmerged"
                )
            rounded = nn.Parameter(value.to(parameter.dtype, copy=True).contiguous(), requires_grad=False)
            merged |= dict.fromkeys(shared, rounded)
        return merged

    def _exchange(self, values: Mapping[str, nn.Parameter]) -> None:
        for path, value in values.items():
            owner, _, name = path.rpartition(".")
            self._model.get_submodule(owner)._parameters[name] = value
