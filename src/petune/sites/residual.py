"""Where the output of a sub-layer joins the residual stream: measured on one pass, not looked up.

A model that normalises first computes ``r + F(N(r))`` and gives the sum to the norm of the next sub-layer; one that
normalises last computes ``N(r + F(r))``. So the norm that comes next is given the sub-layer's output plus r, and r is
what a norm was given before or what the sub-layer itself was given.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.structure import Structure
from petune.backbone.sublayers import SubLayer, norms
from petune.errors import TargetError
from petune.sites.attention import AttentionSites
from petune.sites.routing import Route, Routing

MEASURED_TOKENS = 3


@final
@dataclass(frozen=True, slots=True)
class Joint:
    """Where one sub-layer joins the residual stream.

    Attributes:
        reads: path of the sub-module whose input is r, to which the sub-layer's output is added.
        norm: path of the norm that the sum goes through at once; None where the model normalises first.
    """

    reads: str
    norm: str | None


def joints(model: PreTrainedModel, structure: Structure, layers: Sequence[SubLayer]) -> dict[str, Joint]:
    """Return where each of ``layers`` joins the residual stream, by the path of its last linear.

    On the meta device, where nothing can be measured, the model is taken for one that normalises first.

    Raises:
        TargetError: the sum of a sub-layer's output and what it is added to is given to no norm.
    """
    if model.device.type == "meta":
        return {layer.last.path: Joint(layer.first.path, None) for layer in layers}
    watched = _Watched({layer.last.path for layer in layers})
    routing = Routing.of(model)
    tokens = torch.arange(MEASURED_TOKENS)
    if structure.embeds_once:  # random vectors are sure to differ
        width = model.get_input_embeddings().weight.shape[1]
        tokens = torch.randn(MEASURED_TOKENS, width, generator=torch.Generator().manual_seed(0)).to(model.dtype)
    with torch.no_grad(), routing.use(Route.everywhere(())), ExitStack() as hooks:
        for norm in norms(model, structure):
            module = model.get_submodule(norm.path)
            hooks.callback(module.register_forward_pre_hook(partial(watched.enter_norm, norm.path)).remove)
        for linear in structure.linears:
            module = model.get_submodule(linear.path)
            hooks.callback(module.register_forward_pre_hook(partial(watched.enter_linear, linear.path)).remove)
            hooks.callback(module.register_forward_hook(partial(watched.leave_linear, linear.path)).remove)
        AttentionSites(model, routing).read((), tokens)
    missing = next((layer for layer in layers if layer.last.path not in watched.found), None)
    if missing is not None:
        raise TargetError(
            f"'{missing.last.path}' joins the residual stream in a way of its own: no norm is given its output plus"
            " what came before (sub-layers may stand side by side, or be normalised inside), so no adapter can read the"
            " sum; use adapter_input=sub_layer"
        )
    return _of_one_kind(watched.found, {layer.last.path: _stack(structure, layer) for layer in layers})


def _stack(structure: Structure, layer: SubLayer) -> str:
    """Return the path of the list that the block of ``layer`` is in."""
    assert layer.last.block is not None, "sub-layers lie in blocks"
    return structure.blocks[layer.last.block].rpartition(".")[0]


def _of_one_kind(found: Mapping[str, Joint], stacks: Mapping[str, str]) -> dict[str, Joint]:
    """Return the joints without norms in stacks that normalise first, where a first block has none to tell it by."""
    first = {stacks[path] for path, joint in found.items() if joint.norm is None}
    return {path: replace(joint, norm=None) if stacks[path] in first else joint for path, joint in found.items()}


@final
class _Watched:
    """What hooks saw of one forward pass.

    Args:
        lasts: paths of the last linears of the sub-layers in question.
    """

    def __init__(self, lasts: set[str]) -> None:
        self.found: dict[str, Joint] = {}
        self._lasts = lasts
        self._norm_inputs: dict[str, Tensor] = {}
        self._linear_inputs: dict[str, Tensor] = {}
        self._waiting: tuple[str, Tensor] | None = None

    def enter_norm(self, path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Compare what a norm is given with the sums that may have been meant, and note it."""
        if self._waiting is not None:
            last, output = self._waiting
            for reads, given in (*self._norm_inputs.items(), *self._linear_inputs.items()):
                if given.shape == output.shape and torch.equal(inputs[0], output + given):
                    self.found[last] = Joint(reads, None if reads in self._norm_inputs else path)
                    break
            self._waiting = None
            self._norm_inputs.clear()
            self._linear_inputs.clear()
        self._norm_inputs[path] = inputs[0]

    def enter_linear(self, path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note what a linear is given."""
        self._linear_inputs[path] = inputs[0]

    def leave_linear(self, path: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Note what the last linear of a sub-layer gives."""
        if path in self._lasts:
            self._waiting = (path, output)
