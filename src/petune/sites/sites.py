"""Every site of one model, made where an adapter asks for it."""

from typing import final

from torch import nn

from petune.sites.output import OutputSite, OutputSlot
from petune.sites.routing import Routing
from petune.sites.weights import WeightSite, WeightSlot

Slot = OutputSlot | WeightSlot
"""What an adapter learned at one place; its class says which site it belongs to."""


@final
class Sites:
    """The sites of ``model`` that are in use, by path (of a sub-module, or of a parameter for weights)."""

    def __init__(self, model: nn.Module) -> None:
        self.routing = Routing()
        self._model = model
        self._outputs: dict[str, OutputSite] = {}
        self._weights: dict[str, WeightSite] = {}

    def plug(self, name: str, path: str, slot: Slot) -> None:
        """Plug the slot of adapter ``name`` in at ``path``."""
        site: OutputSite | WeightSite
        if isinstance(slot, OutputSlot):
            site = self._outputs.setdefault(path, OutputSite(self._model.get_submodule(path), self.routing))
            site.plug(name, slot)
        else:
            site = self._weights.setdefault(path, WeightSite.find(self._model, path))
            site.plug(name, slot)

    def unplug(self, name: str, path: str, slot: Slot) -> None:
        """Remove the slot of adapter ``name`` from ``path``; an unused site disappears."""
        if isinstance(slot, OutputSlot):
            output = self._outputs[path]
            output.unplug(name)
            if not output.slots:
                del self._outputs[path]
        else:
            self._weights.pop(path).unplug(name)

    def in_use(self, module: nn.Module) -> bool:
        """Say whether a slot is plugged into the output of ``module``."""
        return any(site.module is module for site in self._outputs.values())
