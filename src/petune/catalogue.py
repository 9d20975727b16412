"""The methods there are, and what each would train on a given base."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from petune import methods as registry
from petune.adapter import build_adapter
from petune.backbone.base import meta_model
from petune.backbone.structure import Structure
from petune.errors import BaseModelError, ConfigError
from petune.methods.method import Paper


@final
@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One method, and what it would train on a given base."""

    name: str
    title: str
    paper: Paper | None
    sites: tuple[str, ...]
    learning_rate: float
    """Default peak learning rate."""
    variations: tuple[Mapping[str, Any], ...]
    """Other settings that a comparison tries by itself, at the rate that it found."""
    trainable: int | None
    """Parameters it trains with its default settings on the base asked about; None without a base or where refused."""
    total: int | None
    """Parameters of that base."""
    refused: str | None
    """Why it cannot be used on that base; None where it can."""


def list_methods(model: str | os.PathLike[str] | None = None, **options: Any) -> list[MethodInfo]:
    """Return every method; with a base, how many parameters each trains there (its weights are not loaded).

    Raises:
        BaseModelError: the base's configuration cannot be had.
    """
    skeleton = None if model is None else meta_model(model, **options)
    total = None if skeleton is None else sum(p.numel() for p in skeleton.parameters())
    found = []
    for name in registry.names():
        method = registry.get(name)
        trainable: int | None = None
        refused: str | None = None
        if skeleton is not None:
            try:
                trainable = build_adapter(name, {}, skeleton, Structure(skeleton)).num_parameters()
            except (BaseModelError, ConfigError) as error:
                refused = str(error)
        facts = (name, method.title, method.paper, method.sites, method.learning_rate, method.variations)
        found.append(MethodInfo(*facts, trainable, total, refused))
    return found
