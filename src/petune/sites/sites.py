"""Every site of one model, made where an adapter asks for it."""

import weakref
from collections.abc import Mapping
from typing import final

from torch import nn

from petune.errors import ConfigError
from petune.sites.output import OutputSite, OutputSlot
from petune.sites.routing import Routing
from petune.sites.weights import WeightSite, WeightSlot

Slot = OutputSlot | WeightSlot
"""What an adapter learned at one place; its class says which site it belongs to."""

_users: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Sites]]" = weakref.WeakKeyDictionary()


@final
class Sites:
    """The sites of ``model`` that are in use, by path (of a sub-module, or of a parameter for weights).

    One object at a time plugs into a model: slots that another one plugged in would act unseen. Forgetting the object
    unplugs everything.
    """

    def __init__(self, model: nn.Module) -> None:
        self.routing = Routing()
        self._model = model
        self._outputs: dict[str, OutputSite] = {}
        self._weights: dict[str, WeightSite] = {}
        weakref.finalize(self, _unplug_all, self._outputs, self._weights).atexit = False

    def claim(self) -> None:
        """Reserve the model for this object.

        Raises:
            ConfigError: another object has slots plugged into the model.
        """
        holder = _users.get(self._model, lambda: None)()
        if holder is not None and holder is not self and (holder._outputs or holder._weights):
            raise ConfigError(
                "another AdaptedModel has adapters attached to this base: detach them first, or attach to that one"
            )
        _users[self._model] = weakref.ref(self)

    def plug(self, name: str, path: str, slot: Slot) -> None:
        """Plug the slot of adapter ``name`` in at ``path``, after :meth:`claim`."""
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


def _unplug_all(outputs: Mapping[str, OutputSite], weights: Mapping[str, WeightSite]) -> None:
    for output in outputs.values():
        for name in tuple(output.slots):
            output.unplug(name)
    for weight in weights.values():
        weight.restore()
