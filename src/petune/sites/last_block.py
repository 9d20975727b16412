"""The feed-forward part of the last block, computed for the tokens that anybody reads behind it.

What a token became below the last block reaches others through its attention. What the rest of that block makes of it
goes to the output head alone, and the loss of a language model looks there at label positions: elsewhere nothing has to
be computed, and no gradient comes back. A pass says which tokens it reads (:attr:`Route.reads`); to adapters in the
feed-forward part each of them is a row of one token.

Whether a model has such a part, and reads it so, is measured on six tokens: leaving the others out must change nothing.

Shapes: B rows, T tokens, N tokens that are read, d hidden width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.arguments import without_cache
from petune.backbone.structure import Structure, body_of
from petune.sites.replaced import replaced
from petune.sites.routing import Reading, Route, Routing
from petune.sites.row_axes import evaluating

Forward = Callable[..., Any]

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUGH = 2e-2
_SIZE = (2, 3)
_READ = torch.tensor([1, 5])
"""Which of the tokens of that size are read where it is measured: one inside a row, and the last."""

_FOUND: WeakKeyDictionary[PreTrainedModel, str | None] = WeakKeyDictionary()


@contextmanager
def tokens_read_alone(
    model: PreTrainedModel, structure: Structure, reads_across: Callable[[str], bool]
) -> Iterator[None]:
    """Compute the last feed-forward part for the tokens that a pass reads inside the block, where the model allows it.

    Args:
        model: the base.
        structure: what it is made of.
        reads_across: says whether an adapter inside a sub-module looks at what lies outside of it, or the reverse.
    """
    path = last_feed_forward(model, structure)
    if path is None or any(map(_is_computed_again, model.modules())):
        yield
        return
    block, module, routing = model.get_submodule(structure.blocks[-1]), model.get_submodule(path), Routing.of(model)
    placed = ExitStack()

    def place(*_: Any) -> None:
        reading, former = routing.route.reads, module.forward
        if reading is None:
            return

        def forward(*inputs: Any, **options: Any) -> Any:
            if options or not _fits(reading, inputs) or _is_computed_again(block) or reads_across(path):
                return former(*inputs, **options)
            return _of_few(former, reading, routing, inputs)

        placed.enter_context(replaced(module, {"forward": forward}))

    # Only passes that tell what they read find the module changed: a compiled block shares its graph in all others.
    body = body_of(model)
    hooks = (
        body.register_forward_pre_hook(place),
        body.register_forward_hook(lambda *_: placed.close(), always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def last_feed_forward(model: PreTrainedModel, structure: Structure) -> str | None:
    """Return the path of the last block's feed-forward part where it may be computed for some tokens, else None.

    Args:
        model: a base.
        structure: what it is made of.
    """
    if model not in _FOUND:
        _FOUND[model] = _measured(model, structure)
    return _FOUND[model]


@torch.no_grad()
def _measured(model: PreTrainedModel, structure: Structure) -> str | None:
    if not structure.is_decoder_lm or structure.repeats_blocks or model.get_output_embeddings() is None:
        return None
    path = structure.feed_forward(structure.num_blocks - 1) if structure.blocks else None
    if path is None:
        return None
    module, routing, body = model.get_submodule(path), Routing.of(model), body_of(model)
    former = module.forward
    reading = Reading(_READ.to(model.device), _SIZE, Route.everywhere(()))
    ids = torch.arange(_SIZE[0] * _SIZE[1], device=model.device).reshape(_SIZE)
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **without_cache(body)}

    def masked(*inputs: Any, **options: Any) -> Any:
        assert not options
        assert _fits(reading, inputs)
        return _at(reading, former(*(_at(reading, x) for x in inputs)))

    def few(*inputs: Any, **options: Any) -> Any:
        return _of_few(former, reading, routing, inputs)

    def read(forward: Forward) -> Tensor:
        with replaced(module, {"forward": forward}):
            hidden: Tensor = body(**tokens)[0]
            return hidden.flatten(0, 1)[reading.places]

    try:
        with routing.use(Route.everywhere(())), evaluating(model):
            whole = read(former)
            # Products of the same size: what others hold must not change a bit.
            same = torch.equal(read(masked), whole)
            apart = float((read(few) - whole).norm() / whole.norm())
    except Exception:  # whatever the part or the model may want otherwise
        return None
    return path if same and apart <= _TOLERANCE.get(model.dtype, _ROUGH) else None


def _is_computed_again(module: nn.Module) -> bool:
    """Say whether the backward pass computes a block, or a model's blocks, again: then no pass tells what it reads."""
    return bool(module.__dict__.get("gradient_checkpointing"))


def _fits(reading: Reading, inputs: Sequence[Any]) -> bool:
    """Say whether all of a module's inputs are [B, T, ...]."""
    return bool(inputs) and all(isinstance(x, Tensor) and x.ndim == 3 and x.shape[:2] == reading.size for x in inputs)


def _of_few(former: Forward, reading: Reading, routing: Routing, inputs: Sequence[Tensor]) -> Tensor:
    """Return what ``former`` gives [B, T, d] at the tokens that are read, and zeros elsewhere."""
    with routing.use(reading.route):
        few: Tensor = former(*(x.flatten(0, 1).index_select(0, reading.places)[:, None] for x in inputs))
    assert few.shape[:2] == (len(reading.places), 1), f"{tuple(few.shape)} is not {len(reading.places)} rows of a token"
    every = few.new_zeros(*reading.size, few.shape[-1]).flatten(0, 1)
    return every.index_copy(0, reading.places, few[:, 0]).view(*reading.size, -1)


def _at(reading: Reading, x: Tensor) -> Tensor:
    """Return ``x`` [B, T, d] with zeros where nobody reads."""
    kept = torch.zeros_like(x).flatten(0, 1)
    kept[reading.places] = x.flatten(0, 1)[reading.places]
    return kept.view_as(x)
