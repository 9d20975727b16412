"""Which arguments a model can be called with: their sets differ from one architecture to the next."""

import inspect

from torch import nn


def takes(model: nn.Module, argument: str) -> bool:
    """Say whether the forward pass of ``model`` has an argument of this name."""
    return argument in inspect.signature(model.forward).parameters


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the argument that spares keys and values, where the model takes it."""
    return {"use_cache": False} if takes(model, "use_cache") else {}
