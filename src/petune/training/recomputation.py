"""Activations computed again in the backward pass instead of being kept: those of all blocks, or of chosen parts.

Chen, Xu, Zhang, Guestrin: "Training Deep Nets with Sublinear Memory Cost" (2016), https://arxiv.org/abs/1604.06174
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from petune.backbone.structure import Structure
from petune.errors import ConfigError
from petune.sites.replaced import replaced
from petune.sites.routing import Routing

Kind = Literal["norms", "feed-forward", "block"]

KINDS: tuple[Kind, ...] = ("norms", "feed-forward", "block")
"""Parts of a block, by what it costs to compute them again, the cheapest first."""


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A part of one block, computed again as a whole."""

    kind: Kind
    block: int
    paths: tuple[str, ...]
    """Its modules, each computed again from its own input."""


@contextmanager
def gradient_checkpointing(model: PreTrainedModel) -> Iterator[None]:
    """Recompute the activations of each block of ``model`` inside the block; afterwards it is as it was.

    Raises:
        ConfigError: the architecture cannot do it.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"{type(model).__name__} cannot recompute activations; leave out --gradient-checkpointing")
    with warnings.catch_warnings():  # the name that all releases of transformers 5 know; the new one came late
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # Only reentrant checkpointing needs inputs that require gradients; the hook for them would outlive the run.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_disable()


def parts_of(model: PreTrainedModel, structure: Structure) -> list[Part]:
    """Return what can be computed again in ``model``: the cheap parts of all blocks first, whole blocks last."""
    found: dict[Kind, list[Part]] = {kind: [] for kind in KINDS}
    for number, path in enumerate(structure.blocks):
        block = model.get_submodule(path)
        norms = tuple(f"{path}.{name}" for name, part in block.named_modules() if name and _is_elementwise(part))
        forward = structure.feed_forward(number)
        if norms:
            found["norms"].append(Part("norms", number, norms))
        if forward:
            found["feed-forward"].append(Part("feed-forward", number, (forward,)))
        if isinstance(block, GradientCheckpointingLayer) and model.supports_gradient_checkpointing:
            found["block"].append(Part("block", number, (path,)))
    return [part for kind in KINDS for part in found[kind]]


def _is_elementwise(module: nn.Module) -> bool:
    """Say whether a module has no parts and no matrix: a norm, an activation."""
    return not any(True for _ in module.children()) and all(p.dim() < 2 for p in module.parameters())


@contextmanager
def recomputed(model: PreTrainedModel, parts: Sequence[Part]) -> Iterator[None]:
    """Compute ``parts`` again in backward passes inside the block; afterwards the model is as it was.

    What lies inside another part is left to that.
    """
    whole = {part.block for part in parts if part.kind == "block"}
    left = [part for part in parts if part.kind == "block" or part.block not in whole]
    outer = {path for part in left for path in part.paths}
    routing = Routing.of(model)
    with ExitStack() as stack:
        for part in left:
            for path in part.paths:
                if not any(path.startswith(f"{other}.") for other in outer):
                    module = model.get_submodule(path)
                    is_block = part.kind == "block"
                    stack.enter_context(_block_recomputed(module) if is_block else _forward_recomputed(module, routing))
        yield


@contextmanager
def _block_recomputed(block: nn.Module) -> Iterator[None]:
    """Use transformers' own way for a block, which knows its caches."""
    attributes = {
        "gradient_checkpointing": True,
        "_gradient_checkpointing_func": partial(checkpoint, use_reentrant=False),
    }
    with replaced(block, attributes):
        yield


@contextmanager
def _forward_recomputed(module: nn.Module, routing: Routing) -> Iterator[None]:
    with replaced(module, {"forward": _recomputing(module.forward, routing)}):
        yield


def _recomputing(forward: Callable[..., Any], routing: Routing) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        route = routing.route  # what stands in front of rows has another, which is gone in the backward pass

        def again(*args: Any, **kwargs: Any) -> Any:
            with routing.use(route):
                return forward(*args, **kwargs)

        return checkpoint(again, *args, use_reentrant=False, **kwargs)

    return call


def described(parts: Sequence[Part]) -> str:
    """Return in words what is computed again: ``the norms of 30 blocks and the feed-forward part of 12``."""
    whole = {part.block for part in parts if part.kind == "block"}
    counts = {
        kind: len({part.block for part in parts if part.kind == kind and (kind == "block" or part.block not in whole)})
        for kind in KINDS
    }
    words = {"norms": "the norms and activations of", "feed-forward": "the feed-forward part of", "block": "all of"}
    said = [f"{words[kind]} {count} {'block' if count == 1 else 'blocks'}" for kind, count in counts.items() if count]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said) or "nothing"
