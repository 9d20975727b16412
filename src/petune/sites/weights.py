"""The weights site: a base parameter itself is learned, for full fine-tuning.

The learned value is an fp32 master. Where the base computes in another precision, a copy in that precision stands in
the module: gradients flow from the copy to the master, and :meth:`WeightSlot.refresh` renews the copy after a step.
The base's own parameter is set aside untouched and returns, bit for bit, when the slot is unplugged.
"""

from typing import final

import torch
from torch import Tensor, nn

Place = tuple[nn.Module, str]


@final
class WeightSlot(nn.Module):
    """The learned value of one base parameter, of the parameter's own shape.

    Args:
        value: the starting value; copied to fp32.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.master = nn.Parameter(value.detach().to(torch.float32, copy=True))
        self._compute: list[nn.Parameter] = []  # a list keeps the copy out of this module's own parameters

    def value_for(self, dtype: torch.dtype) -> nn.Parameter:
        """Return the parameter to compute with: the master, or a copy in ``dtype`` that feeds its gradient back."""
        if dtype == self.master.dtype:
            return self.master
        copy = nn.Parameter(self.master.detach().to(dtype))
        copy.register_post_accumulate_grad_hook(self._take_gradient)  # type: ignore[no-untyped-call]
        copy.requires_grad_(self.master.requires_grad)
        self._compute.append(copy)
        return copy

    def forget_copy(self) -> None:
        """Drop the copy made by :meth:`value_for`."""
        self._compute.clear()

    def set_trainable(self, trainable: bool) -> None:
        """Let gradients reach the master, or not."""
        for parameter in (self.master, *self._compute):
            parameter.requires_grad_(trainable)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master into the computing precision; call it after each change of the master."""
        for copy in self._compute:
            copy.copy_(self.master)

    @torch.no_grad()
    def _take_gradient(self, copy: Tensor) -> None:
        # Micro-batches add up in fp32: bf16 sums would lose small gradients.
        assert copy.grad is not None
        gradient = copy.grad.to(self.master.dtype)
        copy.grad = None
        self.master.grad = gradient if self.master.grad is None else self.master.grad.add_(gradient)


@final
class WeightSite:
    """One base parameter, with every module that shares it (tied weights)."""

    def __init__(self, places: list[Place]) -> None:
        assert places
        self._places = places
        module, name = places[0]
        original = module._parameters[name]
        assert original is not None
        self._original: nn.Parameter = original
        self.slot: WeightSlot | None = None
        self._name: str | None = None

    @staticmethod
    def find(model: nn.Module, path: str) -> "WeightSite":
        """Return the site of the parameter called ``path`` in ``model``, tied places included."""
        wanted = model.get_parameter(path)
        places = [
            (module, name)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is wanted
        ]
        return WeightSite(places)

    def plug(self, name: str, slot: WeightSlot) -> None:
        """Let ``slot``'s value stand in for the base parameter."""
        assert self.slot is None, "one learned value at a time may stand in for a base parameter"
        self.slot, self._name = slot, name
        self._set(slot.value_for(self._original.dtype))

    def unplug(self, name: str) -> None:
        """Give the base its own parameter back."""
        assert name == self._name
        self.restore()

    def restore(self) -> None:
        """Give the base its own parameter back, whatever stands in for it."""
        assert self.slot is not None
        module, name = self._places[0]
        stands_in = module._parameters[name]
        assert stands_in is not None
        if self._original.device != stands_in.device:  # the model may have moved since
            self._original.data = self._original.data.to(stands_in.device)
        self._set(self._original)
        self.slot.forget_copy()
        self.slot = self._name = None

    def _set(self, parameter: nn.Parameter) -> None:
        for module, name in self._places:
            module._parameters[name] = parameter
