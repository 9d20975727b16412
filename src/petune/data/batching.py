"""Rows to optimiser steps, steps to micro-batches, micro-batches to padded tensors."""

import random
from collections.abc import Sequence
from typing import Literal

import torch

from petune.data.encoding import IGNORED, Encoded
from petune.errors import ConfigError
from petune.kernels.upload import uploaded

_POOL_STEPS = 50
_MICRO_BATCH_COST = 64
_MICRO_BATCH_ROWS = 512


def plan_steps(
    lengths: Sequence[int],
    *,
    rows_per_step: int | None,
    tokens_per_step: int | None,
    seed: int,
    epoch: int,
    group_by_length: bool,
) -> list[list[int]]:
    """Return the row indices of each optimiser step of one epoch; every row exactly once.

    The order depends on nothing but the arguments. With ``group_by_length`` the shuffled rows are sorted by
    length inside pools of about fifty steps, so that rows of a step are alike, and the steps are shuffled
    afterwards.

    Args:
        lengths: tokens of each row.
        rows_per_step: most rows of a step; None for no such limit.
        tokens_per_step: most tokens of a step, padding not counted; a longer row is a step of its own.
        seed: seed of the run.
        epoch: number of the epoch; each has its own order.
        group_by_length: put rows of like lengths together.

    Raises:
        ConfigError: neither limit is given, or one is below 1.
    """
    _check_limits(rows_per_step=rows_per_step, tokens_per_step=tokens_per_step)
    if rows_per_step is None and tokens_per_step is None:
        raise ConfigError("a step has no size: give a number of rows or a number of tokens for each step")
    rng = random.Random(f"steps:{seed}:{epoch}")  # noqa: S311 - an order, not a secret
    order = list(range(len(lengths)))
    rng.shuffle(order)
    if group_by_length and order:
        pool = _pool_size(lengths, rows_per_step, tokens_per_step)
        # Every other pool runs upwards, so that a step across the seam of two pools is of like lengths too.
        order = [
            row
            for number, start in enumerate(range(0, len(order), pool))
            for row in sorted(order[start : start + pool], key=lengths.__getitem__, reverse=number % 2 == 0)
        ]
    steps: list[list[int]] = []
    tokens = 0
    for row in order:
        full = (
            not steps
            or (rows_per_step is not None and len(steps[-1]) >= rows_per_step)
            or (tokens_per_step is not None and tokens + lengths[row] > tokens_per_step)
        )
        if full:
            steps.append([])
            tokens = 0
        steps[-1].append(row)
        tokens += lengths[row]
    rng.shuffle(steps)
    return steps


def split_step(
    rows: Sequence[int],
    lengths: Sequence[int],
    *,
    max_rows: int | None,
    max_tokens: int | None,
    targets: Sequence[int] | None = None,
) -> list[list[int]]:
    """Split one step's rows into micro-batches of like lengths, the longest first.

    The split is the one with the fewest padded tokens, where each micro-batch costs 64 tokens more for being
    one (dynamic programming over the rows sorted by length).

    Args:
        rows: row indices of the step.
        lengths: tokens of each row of the data set.
        max_rows: most rows of a micro-batch; None for 512.
        max_tokens: most tokens of a micro-batch, padding counted; a longer row is a micro-batch of its own.
        targets: of the tokens of each row, those of a target that is a sequence of its own, padded to the longest
            target; None where rows are one sequence.

    Raises:
        ConfigError: a limit is below 1.
    """
    _check_limits(max_rows=max_rows, max_tokens=max_tokens)
    max_rows = _MICRO_BATCH_ROWS if max_rows is None else max_rows
    targets = targets if targets is not None and any(targets) else None
    ordered = sorted(rows, key=lambda row: (-lengths[row], row))
    count = len(ordered)
    best = [0.0] + [float("inf")] * count
    start_of = [0] * (count + 1)
    for start in range(count):
        longest = lengths[ordered[start]]  # where rows are one sequence, no later one is longer
        read = written = 0
        for end in range(start + 1, count + 1):
            size = end - start
            if targets is not None:
                row = ordered[end - 1]
                read, written = max(read, lengths[row] - targets[row]), max(written, targets[row])
                longest = read + written
            too_big = size > max_rows or (max_tokens is not None and size * longest > max_tokens)
            if size > 1 and too_big:
                break
            cost = best[start] + size * longest + _MICRO_BATCH_COST
            if cost < best[end]:
                best[end], start_of[end] = cost, start
    batches: list[list[int]] = []
    end = count
    while end:
        batches.append(ordered[start_of[end] : end])
        end = start_of[end]
    return batches[::-1]


def padded_tokens(rows: Sequence[Encoded]) -> int:
    """Return the tokens of a batch, padding counted: that of prompts and that of targets apart."""
    targets = max(row.target_tokens for row in rows)
    return len(rows) * (max(row.num_tokens - row.target_tokens for row in rows) + targets)


def collate(
    rows: Sequence[Encoded],
    *,
    pad_token_id: int,
    side: Literal["left", "right"] = "right",
    device: torch.device | str | None = None,
) -> dict[str, torch.Tensor]:
    """Pad rows to one length.

    Padding is told from text by its position (attention mask 0, label -100), never by its id: where PAD is
    EOS, the EOS that ends a row stays attended and learned.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, T], ``labels`` [B, as many as the longest row has], all int64; and
        ``token_type_ids`` [B, T] where rows have them.
    """
    assert rows, "a batch holds at least one row"

    def padded(sequences: Sequence[Sequence[int]], filler: int) -> list[list[int]]:
        width = max(map(len, sequences))
        fillings = ([filler] * (width - len(ids)) for ids in sequences)
        return [[*f, *ids] if side == "left" else [*ids, *f] for ids, f in zip(sequences, fillings, strict=True)]

    columns = {
        "input_ids": padded([row.input_ids for row in rows], pad_token_id),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
        "labels": padded([row.labels for row in rows], IGNORED),
    }
    if any(row.token_types for row in rows):
        columns["token_type_ids"] = padded([row.token_types for row in rows], 0)
    made = {name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()}
    return made if device is None else {name: uploaded(tensor, device) for name, tensor in made.items()}


def answer_starts(rows: Sequence[Encoded]) -> list[int]:
    """Return the index of the first learned token of each row; its length where none is learned."""
    return [next((t for t, label in enumerate(row.labels) if label != IGNORED), len(row.labels)) for row in rows]


def _pool_size(lengths: Sequence[int], rows_per_step: int | None, tokens_per_step: int | None) -> int:
    sizes = [rows_per_step] if rows_per_step is not None else []
    if tokens_per_step is not None:
        mean = max(1.0, sum(lengths) / len(lengths))
        sizes.append(max(1, int(tokens_per_step / mean)))
    return min(sizes) * _POOL_STEPS


def _check_limits(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} is {limit}; give a whole number of 1 or more, or leave it out")
