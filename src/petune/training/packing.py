"""The rows of one step of each adapter, as batches that go through the base together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from petune.data.batching import padded_tokens, split_step
from petune.data.encoding import Encoded
from petune.training.adapter_run import AdapterRun

ENOUGH_TOKENS = 1024
"""Tokens of a batch beyond which a CPU gains nothing from more of them, while their memory grows."""


@final
@dataclass(slots=True)
class NextStep:
    """The next step of one adapter.

    Args:
        run: the adapter in training.
        rows: the step's rows.
        labels: how many labels they learn, which the step's loss is a mean over.
    """

    run: AdapterRun
    rows: list[Encoded]
    labels: int
    loss: float = 0.0
    """Mean loss of the rows that have gone through the base so far."""

    @property
    def task(self) -> str:
        """The name of the task that its rows are of."""
        return self.rows[0].task

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [row.num_tokens for row in self.rows]

    @property
    def most_rows(self) -> int | None:
        """How many rows may go through the base at once; None where tokens alone count."""
        options = self.run.options
        return options.per_device_train_batch_size if options.tokens_per_step is None else None


Place = tuple[NextStep, Encoded]
"""A row, and whose it is."""


def pack(steps: Sequence[NextStep], device: torch.device, most_tokens: int | None = None) -> list[list[Place]]:
    """Return the rows of all ``steps`` as batches of rows of one task and of like lengths, the longest first.

    One adapter's rows are split as its options say. Rows of several share batches; none has more rows than the adapters
    together allow, nor more tokens, padding counted, than the most careful of them allows. On a CPU none is larger than
    what is enough, unless one adapter's own batches are.

    Args:
        steps: the next step of each adapter.
        device: where the base lies.
        most_tokens: a limit besides those of the options.
    """
    tasks = list(dict.fromkeys(step.task for step in steps))
    if len(tasks) > 1:
        of_each = ([step for step in steps if step.task == task] for task in tasks)
        return [batch for own in of_each for batch in pack(own, device, most_tokens)]
    places = [(step, row) for step in steps for row in step.rows]
    tokens = min(step.run.options.max_tokens_per_batch for step in steps)
    if len(steps) > 1 and device.type == "cpu":
        tokens = min(tokens, max(ENOUGH_TOKENS, *(_largest(step, tokens) for step in steps)))
    return _split(places, steps, tokens if most_tokens is None else min(tokens, most_tokens))


def _split(places: Sequence[Place], steps: Sequence[NextStep], tokens: int) -> list[list[Place]]:
    limits, lengths = [step.most_rows for step in steps], [row.num_tokens for _, row in places]
    rows = None if None in limits else sum(limit for limit in limits if limit is not None)
    targets = [row.target_tokens for _, row in places]
    batches = split_step(range(len(places)), lengths, max_rows=rows, max_tokens=tokens, targets=targets)
    return [[places[i] for i in batch] for batch in batches]


def _largest(step: NextStep, max_tokens: int) -> int:
    """Return the tokens, padding counted, of the largest batch that the adapter would have alone."""
    targets, rows = [row.target_tokens for row in step.rows], range(len(step.rows))
    batches = split_step(rows, step.lengths, max_rows=step.most_rows, max_tokens=max_tokens, targets=targets)
    return max(padded_tokens([step.rows[i] for i in batch]) for batch in batches)


def end_to_end(steps: Sequence[NextStep], device: torch.device, most_tokens: int | None = None) -> list[list[Place]]:
    """Return the rows of all ``steps`` as batches to be laid end to end, one adapter's after the other's.

    Nothing is padded, so rows of any lengths share a batch, on a CPU up to what is enough. The fewer adapters a batch
    has, the larger are the products with what they learn.

    Args:
        steps: the next step of each adapter.
        device: where the base lies.
        most_tokens: a limit besides those of the options.
    """
    places = [(step, row) for step in steps for row in step.rows]
    most = min(step.run.options.max_tokens_per_batch for step in steps)
    most = min(most, ENOUGH_TOKENS) if device.type == "cpu" else most
    most = most if most_tokens is None else min(most, most_tokens)
    tokens = sum(row.num_tokens for _, row in places)
    fair = tokens / max(1, -(-tokens // most))  # batches of about one size
    batches: list[list[Place]] = []
    filled = 0
    for place in places:
        length = place[1].num_tokens
        if not batches or filled >= fair or filled + length > most:
            batches.append([])
            filled = 0
        batches[-1].append(place)
        filled += length
    return batches


def of_like_lengths(batch: Sequence[Place], most_tokens: int | None = None) -> list[list[Place]]:
    """Return the rows of a batch that was to lie end to end, and cannot, as batches that may be padded.

    Args:
        batch: the rows.
        most_tokens: a limit besides those of the options.
    """
    steps = list({id(step): step for step, _ in batch}.values())
    most = min(step.run.options.max_tokens_per_batch for step in steps)
    return _split(batch, steps, most if most_tokens is None else min(most, most_tokens))
