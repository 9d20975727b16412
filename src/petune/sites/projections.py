"""How an attention module makes keys and values of a vector: by two linears, or by parts of one for queries too.

A fused linear lays its output out in one of two ways. Which one a model has is measured on one vector, not looked up.

Shapes: P vectors, d their width, H query heads, K key-value heads, D head width.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.attentions import Attention
from petune.backbone.structure import Structure
from petune.backbone.sublayers import key_value_linears
from petune.errors import BaseModelError
from petune.sites.attention import AttentionSites, KeysValues
from petune.sites.routing import Route, Routing

Layout = Literal["separate", "blocks", "groups"]
"""separate: two linears; blocks: all queries, then all keys, then all values; groups: the queries, the key and the
value of one key-value head, then those of the next."""
_FUSED: tuple[Layout, ...] = ("blocks", "groups")


@final
@dataclass(frozen=True, slots=True)
class Projection:
    """The linears of one attention module that make keys and values.

    Attributes:
        linears: their paths below the attention module: of keys and of values, or of the fused one.
        layout: how the output is laid out.
        width: width d of their input.
    """

    linears: tuple[str, ...]
    layout: Layout
    width: int

    def __call__(self, attention: nn.Module, vectors: Tensor, heads: int, head_width: int) -> KeysValues:
        """Return the keys and values [K, P, D] that ``attention`` makes of ``vectors`` [P, d], before any rotation."""
        outputs = [attention.get_submodule(path)(vectors) for path in self.linears]
        if self.layout == "separate":
            keys, values = (output.view(len(vectors), -1, head_width) for output in outputs)
            return keys.transpose(0, 1), values.transpose(0, 1)
        return _parts(outputs[0], self.layout, heads, head_width)


def projections(
    model: PreTrainedModel, structure: Structure, attentions: Iterable[Attention]
) -> Mapping[str, Projection]:
    """Return how each of ``attentions`` makes keys and values, by its path.

    Raises:
        TargetError: the linears cannot be told.
        BaseModelError: a fused linear has neither of the two layouts, keys and values are made of different inputs, or
            the attention cannot be reached.
    """
    chosen = list(attentions)
    linears = {a.path: key_value_linears(structure, a) for a in chosen}
    for path, own in linears.items():
        if len({linear.in_features for linear in own}) > 1:
            raise BaseModelError(
                f"'{path}' makes keys of inputs {own[0].in_features} wide and values of inputs {own[-1].in_features}"
                " wide, so no vector can stand for both; methods that change the outputs of chosen linears work on this"
                " base"
            )
    fused = [a for a in chosen if len(linears[a.path]) == 1]
    layouts = _measured(model, {a: linears[a.path][0].path for a in fused}) if fused else {}
    return {
        path: Projection(
            tuple(linear.path.removeprefix(f"{path}.") for linear in own),
            layouts.get(path, "separate"),
            own[0].in_features,
        )
        for path, own in linears.items()
    }


def _measured(model: PreTrainedModel, fused: Mapping[Attention, str]) -> dict[str, Layout]:
    """Return the layout of each fused linear by the path of its attention; ``fused`` holds the linears' paths."""
    if model.device.type == "meta":
        return {a.path: "blocks" for a in fused}
    seen, outputs = _one_vector(model, fused)
    layouts: dict[str, Layout] = {}
    for attention in fused:
        output, values = outputs[attention.path], seen[attention.path][1]
        for layout in _FUSED:
            _, found = _parts(output, layout, attention.num_heads, attention.head_dim)
            repeated = found.repeat_interleave(max(1, len(values) // len(found)), 0)  # some models do so on their own
            if repeated.shape == values.shape and torch.equal(repeated, values):
                layouts[attention.path] = layout
                break
        else:
            raise BaseModelError(
                f"'{fused[attention]}' makes queries, keys and values at once, in an order that is neither all queries,"
                " all keys, all values, nor head by head, so keys and values cannot be told apart; methods that change"
                " the outputs of chosen linears work on this base"
            )
    return layouts


def _one_vector(
    model: PreTrainedModel, fused: Mapping[Attention, str]
) -> tuple[Mapping[str, KeysValues], dict[str, Tensor]]:
    """Return the keys and values [K, 1, D] and the fused outputs [1, F] of the bare model for one random vector."""
    embedding = model.get_input_embeddings()
    vector = torch.randn(1, embedding.weight.shape[1], generator=torch.Generator().manual_seed(0))
    outputs: dict[str, Tensor] = {}
    routing = Routing.of(model)
    with torch.no_grad(), routing.use(Route.everywhere(())), ExitStack() as hooks:
        for attention, path in fused.items():

            def note(module: nn.Module, inputs: object, output: Tensor, path: str = attention.path) -> None:
                outputs[path] = output.flatten(0, -2)

            hooks.callback(model.get_submodule(path).register_forward_hook(note).remove)
        paths = tuple(attention.path for attention in fused)
        seen = AttentionSites(model, routing).read(paths, vector.to(model.dtype))
    return seen, outputs


def _parts(output: Tensor, layout: Layout, heads: int, head_width: int) -> KeysValues:
    """Return the keys and values [K, P, D] in a fused linear's output [P, (H + 2 K) D]."""
    by_head = output.view(len(output), -1, head_width)
    groups = (by_head.shape[1] - heads) // 2
    if layout == "blocks":
        keys, values = by_head[:, heads : heads + groups], by_head[:, heads + groups :]
    else:
        by_group = by_head.view(len(output), groups, -1, head_width)
        keys, values = by_group[:, :, -2], by_group[:, :, -1]
    return keys.transpose(0, 1), values.transpose(0, 1)
