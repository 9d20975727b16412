"""Attributes of a module replaced for a while: its forward pass, mostly."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def replaced(module: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
    """Give ``module`` attributes of its own inside the block, in front of those of its class."""
    before = {name: module.__dict__[name] for name in attributes if name in module.__dict__}
    module.__dict__.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del module.__dict__[name]
        module.__dict__.update(before)
