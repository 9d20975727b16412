"""The output site: ``y -> f(x, y)`` after any sub-module, for LoRA, adapters and whatever else changes an output.

A site is a forward hook: the base's module tree, its parameter names and its state dict stay as they were.

Shapes: x [N, ..., d_in] and y [N, ..., d_out] are the sub-module's input and output; the rows lie along the first axis.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from petune.sites.routing import Routing


@final
class Host:
    """The sub-module that slots are plugged into, with the weight it has while no adapter is merged into it.

    Args:
        module: the sub-module.
        path: its path in the model.
        bare: parameters of the model, by path, in place of which merged ones stand now.
    """

    def __init__(self, module: nn.Module, path: str = "", bare: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        self.module = module
        self._path = f"{path}.weight"
        self._bare = bare

    @property
    def weight(self) -> Tensor:
        """The weight [d_out, d_in], of an embedding [d, V]; a view, whatever the layout it is stored in."""
        weight = self._bare.get(self._path, self.module.get_parameter("weight")).detach()
        return weight.t() if stored_transposed(self.module) else weight

    @property
    def bias(self) -> Tensor | None:
        """What the sub-module adds to its product."""
        return self.module._parameters.get("bias")


def stored_transposed(module: nn.Module) -> bool:
    """Say whether a module's weight is stored as [d_in, d_out]: GPT-2's Conv1D, and tables with a row per input."""
    return isinstance(module, Conv1D | nn.Embedding)


class OutputSlot(nn.Module, ABC):
    """What one adapter learned at one output site."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the new output [N, ..., d_out] for input ``x`` and the sub-module's own output ``y``."""

    def meet(self, host: Host) -> None:
        """Take note of where the slot is plugged in; for slots that compute with their host's own weight."""
        return

    def merged_weight(self, weight: Tensor) -> Tensor | None:
        """Return the host's weight [d_out, d_in] that equals ``weight`` with this slot, or None if there is none."""
        return None

    def merged_parameters(self, host: nn.Module) -> Mapping[str, Tensor] | None:
        """Return the parameters of ``host``, by name and in its own layout, that equal it with this slot.

        Sums are made in fp32 at least. Parameters that stay are left out; None says that there are no such parameters.
        """
        weight = host.get_parameter("weight").detach()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        transposed = stored_transposed(host)
        merged = self.merged_weight(wide.t() if transposed else wide)
        if merged is None:
            return None
        return {"weight": merged.t() if transposed else merged}


@final
class OutputSite:
    """All slots that adapters have plugged into one sub-module."""

    def __init__(self, host: Host, routing: Routing) -> None:
        self.host = host
        self.module = host.module
        self.slots: dict[str, OutputSlot] = {}
        self._routing = routing
        self._handle: RemovableHandle | None = None

    def plug(self, name: str, slot: OutputSlot) -> None:
        """Add the slot of adapter ``name``."""
        assert name not in self.slots, f"adapter {name!r} is plugged in here already"
        slot.meet(self.host)
        self.slots[name] = slot
        if self._handle is None:
            self._handle = self.module.register_forward_hook(self._forward)

    def unplug(self, name: str) -> None:
        """Remove the slot of adapter ``name``; with the last one the hook goes too."""
        del self.slots[name]
        if not self.slots and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        route = self._routing.route
        if len(output) == 1 < route.num_rows:  # position embeddings are computed once for all rows
            x, output = (t.expand(route.num_rows, *t.shape[1:]) for t in (x, output))
        for group in route.groups:
            slots = [self.slots[name] for name in group.stack if name in self.slots]
            if not slots:
                continue
            index = group.index(route.num_rows, output.shape[0], output.device)
            if index is None:
                for slot in slots:
                    output = slot(x, output)
            else:
                x_group, y_group = x.index_select(0, index), output.index_select(0, index)
                for slot in slots:
                    y_group = slot(x_group, y_group)
                output = output.index_copy(0, index, y_group)
        return output
