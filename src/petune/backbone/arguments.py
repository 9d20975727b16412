"""Which arguments a model can be called with: their sets differ from one architecture to the next."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def takes(model: nn.Module, argument: str) -> bool:
    """Say whether the forward pass of ``model`` has an argument of this name."""
    return argument in inspect.signature(model.forward).parameters


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the argument that spares keys and values, where the model takes it."""
    return {"use_cache": False} if takes(model, "use_cache") else {}


def by_name(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of ``model`` by their names, those given by place included."""
    return {**dict(zip(inspect.signature(model.forward).parameters, args, strict=False)), **kwargs}
