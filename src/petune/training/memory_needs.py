"""Memory that a run needs: what is there, what is learned, and what its largest batch holds."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from torch import Tensor, nn

from petune.training.activations import Activations
from petune.training.learned_memory import MOMENTS, most_above
from petune.training.memory import give_back, held_memory
from petune.training.recomputation import Part, recomputed
from petune.training.rehearsal import Batch, Rehearsal

_QUARTER = 4
_FEWEST = 2
"""Rows of a batch that stands for any: torch.compile makes a graph of its own for one."""
_SURE = 2**24
"""Bytes below which what the system says the process gained is not of the batch alone."""
_BUFFERS = 2**25
"""Bytes that libraries of kernels take on CPU, bit by bit, for shapes of products that they have not seen."""
_WORST_FIT = 1.5
"""Most that allocations may cost beyond what they hold."""


@final
@dataclass(frozen=True, slots=True)
class Way:
    """How batches are run."""

    parts: tuple[Part, ...] = ()
    """What is computed again in the backward pass."""

    most_tokens: int | None = None
    """A limit to the tokens of a batch besides that of the options."""


@final
@dataclass(frozen=True, slots=True)
class Need:
    """The memory of a run, in bytes."""

    kept: int
    """What the backward pass of the largest batch needs."""

    above: int
    """The most beyond what is held before the first step."""


@final
class MemoryNeeds:
    """What a run needs, for any way to run its batches.

    Args:
        rehearsal: goes through its batches.
    """

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal
        learned = [p for run in rehearsal.runs for p in run.adapter.parameters() if p.requires_grad]
        self._gradients = sum(parameter.nbytes for parameter in learned)
        self.moments = MOMENTS * self._gradients
        """Bytes that the optimiser keeps from the first step on."""
        self._found: dict[Way, Need] = {}
        self._blocks: dict[int, int] = {}
        typical = sorted(rehearsal.batches().batches, key=len)
        small = typical[len(typical) // 2]
        small = small[: max(_FEWEST, len(small) // _QUARTER)]
        counted = rehearsal.activations(small).most
        rehearsal.timed(small)  # the first backward pass brings buffers of libraries along
        give_back(rehearsal.model.device)
        self.held = held_memory(rehearsal.model.device)
        """What is held before the first step."""
        gained = rehearsal.timed(small)[1] - self.held
        self._fit = min(_WORST_FIT, max(1.0, gained / counted)) if counted > _SURE else 1.0

    def of(self, way: Way) -> Need:
        """Return the memory of the whole run where batches are run in this way."""
        if way not in self._found:
            rehearsal, model = self._rehearsal, self._rehearsal.model
            planned = rehearsal.batches(way.most_tokens)
            with recomputed(model.model, way.parts):
                passes = [rehearsal.activations(batch) for batch in planned.largest]
            most = max(found.most for found in passes)
            blocks = {part.block for part in way.parts if part.kind == "block"}
            if blocks and len(blocks) == model.base.structure.num_blocks:
                most += max(self._blocks.get(block, 0) for block in blocks)  # one of them at a time stands there again
            above = most_above(self._gradients, int(most * self._fit), accumulates=planned.accumulates)
            buffers = _BUFFERS if model.device.type == "cpu" else 0
            self._found[way] = Need(max(found.kept for found in passes), above + buffers)
        return self._found[way]

    def waiting(self, way: Way) -> int:
        """Return the bytes of gradients that are there already while a batch is run."""
        return self._gradients if self._rehearsal.batches(way.most_tokens).accumulates else 0

    def saving(self, parts: list[Part], batch: Batch) -> list[Part]:
        """Return those of ``parts`` that keep more than their input where nothing is computed again."""
        inside: dict[str, int] = {}
        model = self._rehearsal.model.model

        def watching(count: Activations) -> AbstractContextManager[object]:
            return _kept_inside({p: model.get_submodule(p) for part in parts for p in part.paths}, count, inside)

        self._rehearsal.activations(batch, watching)
        saved = {part: sum(max(0, inside.get(path, 0)) for path in part.paths) for part in parts}
        self._blocks = {part.block: size for part, size in saved.items() if part.kind == "block"}
        return [
            Part(part.kind, part.block, tuple(path for path in part.paths if inside.get(path, 0) > 0))
            for part in parts
            if saved[part] > 0
        ]


@contextmanager
def _kept_inside(modules: dict[str, nn.Module], count: Activations, inside: dict[str, int]) -> Iterator[None]:
    """Note what is kept inside each module, what it would have to keep of its input to be computed again left out."""
    began: dict[str, tuple[int, int]] = {}

    def entered(path: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        new = [t for t in inputs if isinstance(t, Tensor) and not count.keeps(t)]
        began[path] = (count.kept, sum(tensor.untyped_storage().nbytes() for tensor in new))

    def left(path: str, *_: Any) -> None:
        before, inputs = began[path]
        inside[path] = inside.get(path, 0) + count.kept - before - inputs

    with ExitStack() as hooks:
        for path, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(entered, path)).remove)
            hooks.callback(module.register_forward_hook(partial(left, path)).remove)
        yield
