"""The trunk: the blocks below the lowest place that an adapter touches.

Training changes nothing there, so what the trunk makes of a row is always the same. Where it is known, the model's own
forward pass is run with the trunk's blocks left out: each of them hands on what the last one would have given.
Embeddings, masks and positions are still the model's own, so there is no case for one architecture or another. Whether
a model can be entered in this way is measured on a few rows: the shortened pass must give the whole one's output, bit
for bit, wherever there are tokens. What the trunk makes of padding is not known: zeros stand there.

Shapes: B rows, T tokens, d hidden width.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.structure import Structure
from petune.sites.attention import SourcedSlot
from petune.sites.output import OutputSlot
from petune.sites.sites import Slot
from petune.sites.weights import WeightSlot

Slots = Collection[tuple[str, Slot]]
"""Slots of one adapter or several, with the path that each plugs into."""

Run = Callable[[int], tuple[Tensor, Tensor]]
"""Runs the model, adapters included, on a few rows or, for 1, on a few others; returns its output, and which of their
places [B, T] hold tokens.
"""


def lowest_block(model: nn.Module, structure: Structure, slots: Slots) -> int:
    """Return the index of the lowest block that ``slots`` touch; the number of blocks where they touch none.

    What lies outside the blocks counts as above them if the model holds it behind the last one, else as below.
    """
    order = {path: number for number, (path, _) in enumerate(model.named_modules())}
    blocks, last = structure.blocks, max((order[path] for path in structure.blocks), default=-1)
    lowest = len(blocks)
    for place in touched(model, slots):
        inside = next((i for i, path in enumerate(blocks) if f"{place}.".startswith(f"{path}.")), None)
        if inside is not None:
            lowest = min(lowest, inside)
        elif order[place] < last:
            return 0
    return lowest


def touched(model: nn.Module, slots: Slots) -> set[str]:
    """Return the paths of the modules whose output, input or parameters ``slots`` change or look at."""
    places: set[str] = set()
    for path, slot in slots:
        if isinstance(slot, WeightSlot):
            learned = model.get_parameter(path)
            places |= {p for p, m in model.named_modules() if any(q is learned for q in m._parameters.values())}
        else:
            places.add(path)
        if isinstance(slot, OutputSlot) and slot.reads is not None:
            places.add(slot.reads)
    return places


@final
class Trunk:
    """The lowest blocks of one model, and the block above them, where its forward pass may be entered.

    Args:
        blocks: the blocks that make up the trunk, lowest first.
        entry: the block above them.

    Attributes:
        width: d, once it is measured.
        dtype: of the hidden states, once it is measured.
    """

    def __init__(self, blocks: list[nn.Module], entry: nn.Module) -> None:
        assert blocks
        self._blocks = blocks
        self._entry = entry
        self._tuple_size: int | None = None
        self._forms: set[int | None] = set()
        self.width = 0
        self.dtype = torch.float32

    @property
    def height(self) -> int:
        """How many blocks it has."""
        return len(self._blocks)

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Note what each forward pass inside the block hands to the entry: hidden states [B, T, d]."""
        seen: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs.get("hidden_states")
            if isinstance(hidden, Tensor):
                seen.append(hidden.detach())

        handle = self._entry.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    @contextmanager
    def left_out(self, hidden: Tensor) -> Iterator[None]:
        """Run no block of the trunk inside the block; the entry is given ``hidden`` [B, T, d].

        What else blocks return is None then: whether anybody misses it is part of what is measured.
        """
        given = hidden if self._tuple_size is None else (hidden, *[None] * (self._tuple_size - 1))
        former = [module.__dict__.get("forward") for module in self._blocks]
        for module in self._blocks:
            module.forward = partial(_give, given)
        try:
            yield
        finally:
            for module, own in zip(self._blocks, former, strict=True):
                if own is None:
                    del module.forward
                else:
                    module.forward = own

    def why_not(self, run: Run, outside: list[nn.Module]) -> str | None:
        """Return why the model cannot be entered above the trunk, or None if it can.

        Args:
            run: runs the model.
            outside: modules beside the blocks that adapters touch.
        """
        early: list[nn.Module] = []
        reached: list[bool] = []
        handles = [
            module.register_forward_pre_hook(lambda m, _: None if reached else early.append(m)) for module in outside
        ]
        handles.append(self._entry.register_forward_pre_hook(lambda *_: reached.append(True), prepend=True))
        handles += [module.register_forward_hook(self._note_form) for module in self._blocks]
        device = next(self._entry.parameters()).device
        try:
            with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                return self._measured(run, early)
        finally:
            for handle in handles:
                handle.remove()

    def _measured(self, run: Run, early: list[nn.Module]) -> str | None:
        with self.watched() as seen:
            (whole, tokens), _ = (_seeded(run, seed) for seed in (0, 1))
        run(1)  # what blocks share beside hidden states is now of other rows, and would show
        if len(seen) != 2 or seen[0].ndim != 3:
            return "a pass does not go through its blocks once each, with rows of hidden states"
        if early:
            return f"a {type(early[0]).__name__} below its blocks is part of the adapter"
        if len(self._forms) != 1 or self._forms == {0}:
            return "its blocks do not all return hidden states in one form"
        (self._tuple_size,) = self._forms
        self.width, self.dtype = seen[0].shape[-1], seen[0].dtype
        if not torch.equal(*seen):
            return "its lower blocks give something else at each pass, as dropout does"
        try:
            with self.left_out(seen[0].masked_fill(~tokens[..., None], 0)):
                shortened, _ = _seeded(run, 0)
            same = torch.equal(_at(tokens, shortened), _at(tokens, whole))
        except Exception:  # whatever an upper block misses
            same = False
        return None if same else "its upper blocks use more than the hidden states of tokens"

    def _note_form(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what a block returns: a tensor (None), a tuple that begins with one (its size), or neither (0)."""
        if isinstance(output, Tensor):
            self._forms.add(None)
        else:
            leads = isinstance(output, tuple) and bool(output) and isinstance(output[0], Tensor)
            self._forms.add(len(output) if leads else 0)


def find_trunk(model: PreTrainedModel, structure: Structure, slots: Slots, run: Run) -> Trunk | str:
    """Return the trunk below ``slots``, or why there is none that could be left out.

    Args:
        model: the base, with the slots plugged in.
        structure: what it is made of.
        slots: those of all adapters.
        run: runs the model on a few rows.
    """
    if len({path.rpartition(".")[0] for path in structure.blocks}) != 1:
        return "it is not one stack of blocks"
    if structure.repeats_blocks:
        return "it runs a block several times"
    height = lowest_block(model, structure, slots)
    if height == 0:
        return "the adapter reaches down to the lowest block"
    if any(isinstance(slot, SourcedSlot) for _, slot in slots):
        return "the adapter has the base read its virtual tokens at each pass"
    if height == structure.num_blocks:
        return "the adapter touches none of its blocks"
    members = [model.get_submodule(path) for path in structure.blocks[: height + 1]]
    trunk = Trunk(members[:-1], members[-1])
    inside = tuple(f"{path}." for path in structure.blocks)
    outside = [model.get_submodule(p) for p in touched(model, slots) if not f"{p}.".startswith(inside)]
    return trunk.why_not(run, outside) or trunk


def _give(given: Any, *_args: Any, **_kwargs: Any) -> Any:
    return given


def _seeded(run: Run, seed: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return run(0)


def _at(tokens: Tensor, output: Tensor) -> Tensor:
    """Return an output [B, T, ...] where there are tokens; one that is of rows as it is."""
    return output[tokens] if output.shape[:2] == tokens.shape else output
