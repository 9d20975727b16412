"""The output site: ``y -> f(x, y)`` after any sub-module, for LoRA, adapters and whatever else changes an output.

A site is a forward hook: the base's module tree, its parameter names and its state dict stay as they were.

Shapes: x [N, ..., d_in] and y [N, ..., d_out] are the sub-module's input and output; the rows lie along the first axis.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from petune.sites.routing import Routing


class OutputSlot(nn.Module, ABC):
    """What one adapter learned at one output site."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the new output [N, ..., d_out] for input ``x`` and the sub-module's own output ``y``."""

    def merged_weight(self, weight: Tensor) -> Tensor | None:
        """Return the host's weight [d_out, d_in] that equals ``weight`` with this slot, or None if there is none."""
        return None

    def merged_parameters(self, host: nn.Module) -> Mapping[str, Tensor] | None:
        """Return the parameters of ``host``, by name and in its own layout, that equal it with this slot.

        Sums are made in fp32 at least. Parameters that stay are left out; None says that there are no such parameters.
        """
        weight = host.get_parameter("weight").detach()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        if isinstance(host, Conv1D):  # stored as [d_in, d_out]
            merged = self.merged_weight(wide.t())
            return None if merged is None else {"weight": merged.t()}
        merged = self.merged_weight(wide)
        return None if merged is None else {"weight": merged}


@final
class OutputSite:
    """All slots that adapters have plugged into one sub-module."""

    def __init__(self, module: nn.Module, routing: Routing) -> None:
        self.module = module
        self.slots: dict[str, OutputSlot] = {}
        self._routing = routing
        self._handle: RemovableHandle | None = None

    def plug(self, name: str, slot: OutputSlot) -> None:
        """Add the slot of adapter ``name``."""
        assert name not in self.slots, f"adapter {name!r} is plugged in here already"
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
