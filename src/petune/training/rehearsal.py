"""Batches of a run gone through before it begins, to know what it will need; nothing of that stays.

Gradients are dropped, random generators go back to where they were, and no step is taken.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

from petune.adapted_model import AdaptedModel
from petune.data.batching import padded_tokens
from petune.training.activations import Activations, counted
from petune.training.adapter_run import AdapterRun
from petune.training.checkpoints import random_state, set_random_state
from petune.training.memory import held_memory
from petune.training.packing import NextStep, Place
from petune.training.stopwatch import seconds_of

_ROUNDS = 400
_FEWEST_ROUNDS = 20
_COMPARISONS = 2_000_000
"""Pairs of rows that packing may look at while steps are sampled: it takes the square of a step's rows."""
_LOOKED_AT = 5_000

Batch = Sequence[Place]
StepAt = Callable[[AdapterRun, int], NextStep]
"""Takes a run and the number of one of its steps."""
Pack = Callable[[Sequence[NextStep], int | None], Sequence[Batch]]
"""Takes the next step of each adapter and a limit of tokens; returns their batches."""
Accumulate = Callable[[Batch, Callable[[], bool]], object]
"""Runs a batch; the function is called between forward and backward pass, and says whether the latter comes."""


@final
@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of some rounds, which stand for all; a round is one step of each adapter."""

    batches: tuple[Batch, ...]
    share: float
    """How many times as many there are in the whole run."""
    largest: tuple[Batch, ...]
    """Those among which the one is that needs most memory: of the most tokens, and of the longest row."""
    accumulates: bool
    """Whether gradients of one batch wait for those of another."""


@final
class Rehearsal:
    """Goes through batches of a run without consequences.

    Args:
        model: the base with the adapters attached.
        runs: the adapters in training.
        step_at: makes a step.
        pack: makes batches as training does.
        accumulate: runs a batch as training does.
    """

    def __init__(
        self, model: AdaptedModel, runs: Sequence[AdapterRun], step_at: StepAt, pack: Pack, accumulate: Accumulate
    ) -> None:
        self.model = model
        self.runs = runs
        self._step_at = step_at
        self._pack = pack
        self._accumulate = accumulate
        self._batches: dict[int | None, Batches] = {}

    @property
    def rounds(self) -> int:
        """How many rounds are to come."""
        return max(run.total_steps - run.progress.step for run in self.runs)

    def batches(self, most_tokens: int | None = None) -> Batches:
        """Return what the run's batches are like.

        Args:
            most_tokens: a limit to their tokens besides that of the options.
        """
        if most_tokens not in self._batches:
            self._batches[most_tokens] = self._looked_through(most_tokens)
        return self._batches[most_tokens]

    def _looked_through(self, most_tokens: int | None) -> Batches:
        rows = sum(len(step.rows) for step in self._round(0))
        count = min(self.rounds, _ROUNDS, max(_FEWEST_ROUNDS, _COMPARISONS // rows**2))
        numbers = sorted({i * (self.rounds - 1) // max(1, count - 1) for i in range(count)})
        rounds = [self._pack(self._round(number), most_tokens) for number in numbers]
        heavy = [self._pack(self._round(number), most_tokens) for number in self._heaviest()]
        found = [batch for batches in (*rounds, *heavy) for batch in batches]
        largest = {id(batch): batch for batch in (max(found, key=size), max(found, key=longest))}
        return Batches(
            batches=tuple(batch for batches in rounds for batch in batches),
            share=self.rounds / len(rounds),
            largest=tuple(largest.values()),
            accumulates=any(len(batches) > 1 for batches in (*rounds, *heavy)),
        )

    def activations(
        self,
        batch: Batch,
        watching: Callable[[Activations], AbstractContextManager[object]] = lambda _: nullcontext(),
    ) -> Activations:
        """Return what the forward pass of ``batch`` holds, counted without holding it.

        Args:
            batch: the rows.
            watching: makes what to run it in, from the count that goes on.
        """
        known = [*self.model.parameters(), *self.model.buffers()]
        with self._without_consequences(), counted(known, rehearsed=True) as found, watching(found):
            self._accumulate(batch, lambda: False)
        return found

    def timed(self, batch: Batch) -> tuple[float, int]:
        """Return the seconds of a forward and backward pass, and the bytes held between the two."""
        held = 0

        def between() -> bool:
            nonlocal held
            held = held_memory(self.model.device)
            return True

        with self._without_consequences():
            seconds = seconds_of(lambda: self._accumulate(batch, between), self.model.device)
        return seconds, held

    def _round(self, number: int) -> list[NextStep]:
        left = [run for run in self.runs if run.progress.step + number < run.total_steps]
        return [self._step_at(run, run.progress.step + number) for run in left]

    def _heaviest(self) -> set[int]:
        """Return the rounds of the most tokens and of the longest row."""
        tokens: dict[int, int] = {}
        longest_row: dict[int, int] = {}
        for number in range(min(self.rounds, _LOOKED_AT)):
            lengths = [
                run.schedule.lengths[row]
                for run in self.runs
                if run.progress.step + number < run.total_steps
                for row in run.schedule.rows(run.progress.step + number)[1]
            ]
            tokens[number], longest_row[number] = sum(lengths), max(lengths)
        return {max(tokens, key=tokens.__getitem__), max(longest_row, key=longest_row.__getitem__)}

    @contextmanager
    def _without_consequences(self) -> Iterator[None]:
        state = random_state()
        errors = [run.error for run in self.runs]
        training = self.model.training
        self.model.train()
        try:
            yield
        finally:
            self.model.train(training)
            set_random_state(state)
            for run, error in zip(self.runs, errors, strict=True):
                run.error = error  # a loss that is not finite is told when its step comes
                run.optimizer.zero_grad(set_to_none=True)


def longest(batch: Batch) -> int:
    """Return the tokens of the longest row."""
    return max(row.num_tokens for _, row in batch)


def size(batch: Batch) -> int:
    """Return the tokens of a batch, padding counted."""
    return padded_tokens([row for _, row in batch])
