"""The output site: ``y -> f(x, y)`` after any sub-module, for LoRA, adapters and whatever else changes an output.

A site is a pair of hooks: the base's module tree, its parameter names and its state dict stay as they were. A slot may
also change what the sub-module is given, or see the input of an earlier sub-module in place of its host's.

Shapes: x [N, ..., d_in] and y [N, ..., d_out] are the sub-module's input and output; the rows lie along the first axis,
in a few models along the second: then N is the size of that one.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from petune.sites.host import Host, stored_transposed, wide
from petune.sites.routing import Routing, Runs


class OutputSlot(nn.Module, ABC):
    """What one adapter learned at one output site."""

    reads: str | None = None
    """Path of an earlier sub-module whose input is ``x``; None for the host's own."""

    changes_input: bool = False
    """Whether :meth:`enter` does anything."""

    takes_bias: bool = False
    """Whether :meth:`forward` takes a third argument: the ``bias`` [d_out] in y, where other slots made y."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the new output [N, ..., d_out] for input ``x`` and the sub-module's own output ``y``."""

    @classmethod
    def together(cls, slots: "Sequence[OutputSlot]", runs: Runs, x: Tensor, y: Tensor) -> Tensor | None:
        """Return the new output [N, ..., d_out] of rows that go through different slots of this class, in one piece.

        None says that these slots are to be called one after the other.

        Args:
            slots: the slots.
            runs: which of them each of R rows has; N is a multiple of R.
            x: as for :meth:`forward`.
            y: as for :meth:`forward`.
        """
        return None

    def meet(self, host: Host) -> None:
        """Take note of where the slot is plugged in; for slots that compute with their host's own weight."""
        return

    def enter(self, x: Tensor) -> Tensor:
        """Return what the sub-module is given in place of its input ``x``."""
        return x

    def merged_weight(self, weight: Tensor) -> Tensor | None:
        """Return the host's weight [d_out, d_in] that equals ``weight`` with this slot, or None if there is none."""
        return None

    def merged_bias(self, bias: Tensor) -> Tensor:
        """Return the host's bias [d_out] that goes with :meth:`merged_weight`."""
        return bias

    def merged_parameters(self, host: nn.Module) -> Mapping[str, Tensor] | None:
        """Return the parameters of ``host``, by name and in its own layout, that equal it with this slot.

        Sums are made in fp32 at least. Parameters that stay are left out; None says that there are no such parameters.
        """
        transposed = stored_transposed(host)
        weight = wide(host.get_parameter("weight"))
        weight = weight.t() if transposed else weight
        merged = self.merged_weight(weight)
        if merged is None:
            return None
        changed = {} if merged is weight else {"weight": merged.t() if transposed else merged}
        if host._parameters.get("bias") is not None:
            bias = wide(host.get_parameter("bias"))
            new = self.merged_bias(bias)
            changed |= {} if new is bias else {"bias": new}
        return changed


@final
class OutputSite:
    """All slots that adapters have plugged into one sub-module.

    Each slot of a row's stack wraps what the slots before it made, so these get what it lets in.

    Args:
        host: the sub-module.
        routing: which adapters each row goes through.
    """

    def __init__(self, host: Host, routing: Routing) -> None:
        self.module = host.module
        self._host = host
        self.slots: dict[str, OutputSlot] = {}
        self._routing = routing
        self._readings: dict[str, nn.Module] = {}
        self._noted: dict[str, Tensor] = {}
        self._axis = 0
        self._noted_axes: dict[str, int] = {}
        self._unchanged: Tensor | None = None
        self._handles: list[RemovableHandle] = []

    def plug(self, name: str, slot: OutputSlot, reads: nn.Module | None = None) -> None:
        """Add the slot of adapter ``name``; ``reads`` is the module that :attr:`OutputSlot.reads` names."""
        assert name not in self.slots, f"adapter {name!r} is plugged in here already"
        slot.meet(self._host)
        self.slots[name] = slot
        if reads is not None:
            self._readings[name] = reads
        self._hook()

    def unplug(self, name: str) -> None:
        """Remove the slot of adapter ``name``; with the last one the hooks go too."""
        del self.slots[name]
        self._readings.pop(name, None)
        self._hook()

    def tell_axes(self, rows_second: Collection[nn.Module]) -> None:
        """Be told which modules of the model have the rows along their second axis."""
        self._axis = int(self.module in rows_second)
        self._noted_axes = {name: int(module in rows_second) for name, module in self._readings.items()}

    def _hook(self) -> None:
        """Have the hooks that the slots need, and no others."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._noted.clear()
        self._unchanged = None  # of a forward pass that failed
        if self.slots:
            self._handles.append(self.module.register_forward_hook(self._after, prepend=True))
        if any(slot.changes_input for slot in self.slots.values()):
            self._handles.append(self.module.register_forward_pre_hook(self._before))
        for name, module in self._readings.items():
            self._handles.append(module.register_forward_pre_hook(partial(self._note, name)))

    def _note(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._noted[name] = inputs[0]

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x = self._unchanged = inputs[0]
        for names, index in self._groups(x):
            x = _put(x, index, self._seen(names, _take(x, index, self._axis))[-1], self._axis)
        return (x, *inputs[1:])

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0] if self._unchanged is None else self._unchanged
        self._unchanged = None
        route = self._routing.route
        if not any(name in self.slots for group in route.groups for name in group.stack):
            self._noted.clear()
            return output
        rows, axis = route.num_rows, self._axis
        if len(output) == 1 < rows and axis == 0:  # position embeddings are computed once for all rows
            x, output = (entries.expand(rows, *entries.shape[1:]) for entries in (x, output))
        at_once = self._at_once(x, output)
        if at_once is not None:
            return at_once
        changed = []
        for names, index in self._groups(output):
            y = _take(output, index, axis)
            for place, (name, own_x) in enumerate(zip(names, self._seen(names, _take(x, index, axis)), strict=False)):
                slot = self.slots[name]
                if name in self._readings:
                    own_x = _take(self._noted[name], index, self._noted_axes.get(name, 0))
                y = slot(own_x, y, self._bias(names[:place])) if slot.takes_bias and place else slot(own_x, y)
            changed.append((index, y))
        self._noted.clear()
        return _put_all(output, changed, axis)

    def _bias(self, names: Sequence[str]) -> Tensor | None:
        """Return the bias in what the slots of these adapters give, the same that merging them makes."""
        bias = self._host.bias
        if bias is not None:
            for name in names:
                bias = self.slots[name].merged_bias(bias)
        return bias

    def _at_once(self, x: Tensor, output: Tensor) -> Tensor | None:
        """Return the output, where the slots of several groups of rows can work in one piece."""
        route = self._routing.route
        numbers = tuple(n for n, g in enumerate(route.groups) if any(name in self.slots for name in g.stack))
        if len(numbers) < 2 or self._readings or self._axis:
            return None
        slots = [self.slots[name] for n in numbers for name in route.groups[n].stack if name in self.slots]
        kind = type(slots[0])
        if len(slots) > len(numbers) or any(type(slot) is not kind or slot.changes_input for slot in slots):
            return None
        index, runs = route.assigned(numbers, output.shape[0], output.device)
        y = kind.together(slots, runs, _take(x, index), _take(output, index))
        return None if y is None else _put(output, index, y)

    def _groups(self, entries: Tensor) -> Iterator[tuple[list[str], Tensor | None]]:
        """Yield the adapters of each group of rows that has some here, and the index of its entries (None: all)."""
        route = self._routing.route
        for group in route.groups:
            names = [name for name in group.stack if name in self.slots]
            if names:
                yield names, group.index(route.num_rows, entries.shape[self._axis], entries.device)

    def _seen(self, names: list[str], x: Tensor) -> list[Tensor]:
        """Return the input that the slot of each adapter sees, and last what the sub-module itself is given."""
        seen = [x]
        for name in reversed(names):
            slot = self.slots[name]
            seen.append(slot.enter(seen[-1]) if slot.changes_input else seen[-1])
        return [*reversed(seen[:-1]), seen[-1]]


def _take(entries: Tensor, index: Tensor | None, axis: int = 0) -> Tensor:
    return entries if index is None else entries.index_select(axis, index)


def _put_all(entries: Tensor, changed: Sequence[tuple[Tensor | None, Tensor]], axis: int) -> Tensor:
    """Return ``entries`` with each group's own in their places, copied once for all groups."""
    if len(changed) < 2:
        return _put(entries, *changed[0], axis) if changed else entries
    return entries.index_copy(
        axis, torch.cat([i for i, _ in changed if i is not None]), torch.cat([y for _, y in changed], axis)
    )


def _put(entries: Tensor, index: Tensor | None, changed: Tensor, axis: int = 0) -> Tensor:
    return changed if index is None else entries.index_copy(axis, index, changed)
