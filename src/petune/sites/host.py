"""What slots may know of the sub-module they are plugged into."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@final
class Host:
    """The sub-module that slots are plugged into, with the weight it has while no adapter is merged into it.

    Args:
        module: the sub-module.
        path: its path in the model.
        bare: parameters of the model, by path, in place of which merged ones stand now.
        model: the model; needed by slots that use a second sub-module.
    """

    def __init__(
        self,
        module: nn.Module,
        path: str = "",
        bare: Mapping[str, Tensor] = MappingProxyType({}),
        model: nn.Module | None = None,
    ) -> None:
        self.module = module
        self._model = model
        self._path = f"{path}.weight"
        self._bare = bare

    @property
    def weight(self) -> Tensor:
        """The weight [d_out, d_in], of an embedding [d, V]; a view, whatever the layout it is stored in."""
        weight = self._bare.get(self._path, self.module.get_parameter("weight")).detach()
        return weight.t() if stored_transposed(self.module) else weight

    def elsewhere(self, path: str) -> nn.Module:
        """Return the sub-module of the same model at ``path``."""
        assert self._model is not None, "the host was not told of its model"
        return self._model.get_submodule(path)

    @property
    def bias(self) -> Tensor | None:
        """What the sub-module adds to its product."""
        return self.module._parameters.get("bias")


def stored_transposed(module: nn.Module) -> bool:
    """Say whether a module's weight is stored as [d_in, d_out]: GPT-2's Conv1D, and tables with a row per input."""
    return isinstance(module, Conv1D | nn.Embedding)


def wide(parameter: Tensor) -> Tensor:
    """Return a parameter in fp32, or in its own precision where that is wider."""
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
