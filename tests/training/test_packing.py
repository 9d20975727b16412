"""Rows of several adapters as batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.data.batching import split_step
from petune.data.encoding import Encoded
from petune.training.adapter_run import AdapterRun
from petune.training.options import TrainingOptions
from petune.training.packing import ENOUGH_TOKENS, NextStep, end_to_end, of_like_lengths, pack
from petune.training.rehearsal import longest, size

CPU = torch.device("cpu")


@pytest.fixture
def next_step(tiny_base: Any, tmp_path: Path) -> Any:
    """A step of rows with these lengths: ``next_step([3, 5], per_device_train_batch_size=1)``."""
    base: Base = tiny_base(num_hidden_layers=1)

    def make(lengths: list[int], targets: list[int] | None = None, **options: Any) -> NextStep:
        rows = [Encoded([5] * n, [-100] * (n - 1) + [5], f"row {n}") for n in lengths]
        if targets is not None:
            rows = [replace(row, labels=[5] * n, is_pair=True) for row, n in zip(rows, targets, strict=True)]
        adapter = create_adapter(base, "lora", target_modules=("q_proj",))
        run = AdapterRun(adapter, rows, TrainingOptions(**options), base, tmp_path)
        return NextStep(run, rows, len(rows))

    return make


def lengths(batches: Any) -> list[list[int]]:
    return [[len(row.input_ids) for _, row in batch] for batch in batches]


def test_one_adapter_s_batches_are_those_of_its_options(next_step: Any) -> None:
    own = [40, 8, 9, 100, 7, 41, 12]
    for options in ({}, {"per_device_train_batch_size": 2}, {"tokens_per_step": 999, "max_tokens_per_batch": 90}):
        step = next_step(own, **options)
        expected = split_step(
            range(len(own)), own, max_rows=step.most_rows, max_tokens=step.run.options.max_tokens_per_batch
        )
        assert lengths(pack([step], CPU)) == [[own[i] for i in batch] for batch in expected]


def test_rows_of_like_lengths_share_a_batch_whoever_s_they_are(next_step: Any) -> None:
    first, second = next_step([100, 10]), next_step([11, 99])
    batches = pack([first, second], CPU)
    assert lengths(batches) == [[100, 99], [11, 10]]
    assert [[owner is first for owner, _ in batch] for batch in batches] == [[True, False], [False, True]]


def test_limits_of_rows_add_up_and_the_least_of_tokens_counts(next_step: Any) -> None:
    one, two = (next_step([10] * 4, per_device_train_batch_size=n) for n in (1, 2))
    assert sorted(lengths(pack([one, two], CPU))) == [[10] * 2, [10] * 3, [10] * 3]
    careful = next_step([10] * 4, max_tokens_per_batch=20)
    assert lengths(pack([two, careful], CPU)) == [[10, 10]] * 4
    by_tokens = next_step([10] * 4, tokens_per_step=40)
    assert lengths(pack([one, by_tokens], CPU)) == [[10] * 8], "a budget of tokens knows no number of rows"


def test_more_than_enough_is_shared_by_no_batch_on_a_cpu(next_step: Any) -> None:
    many = [next_step([64] * 10) for _ in range(4)]
    assert max(len(batch) for batch in pack(many, CPU)) == ENOUGH_TOKENS // 64
    assert lengths(pack(many, torch.device("cuda"))) == [[64] * 40]
    large = next_step([64] * 20, per_device_train_batch_size=20)
    assert max(len(batch) for batch in pack([many[0], large], CPU)) == 20, "as large as one alone has them"


def test_rows_end_to_end_are_batches_of_one_size_adapter_by_adapter(next_step: Any) -> None:
    first, second = next_step([100, 10, 30]), next_step([11, 99])
    (batch,) = end_to_end([first, second], CPU)
    assert [(owner is first, len(row.input_ids)) for owner, row in batch] == [
        (True, 100), (True, 10), (True, 30), (False, 11), (False, 99),
    ]  # fmt: skip
    many = [next_step([64] * 10) for _ in range(4)]
    assert [len(batch) for batch in end_to_end(many, CPU)] == [14, 14, 12]
    assert lengths(end_to_end([first, second], CPU, most_tokens=110)) == [[100], [10, 30, 11], [99]]
    careful = next_step([64, 64], max_tokens_per_batch=60)
    assert lengths(end_to_end([first, careful], CPU)) == [[100], [10, 30], [64], [64]], "a longer row stands alone"


def test_what_cannot_lie_end_to_end_is_padded_within_the_limits(next_step: Any) -> None:
    step, other = next_step([5] * 60 + [700], max_tokens_per_batch=800), next_step([6, 7])
    batch = [(step, row) for step in (step, other) for row in step.rows]
    parts = of_like_lengths(batch)
    assert all(len(part) * max(len(row.input_ids) for _, row in part) <= 800 for part in parts)
    assert sorted(length for part in lengths(parts) for length in part) == [5] * 60 + [6, 7, 700]
    assert max(len(part) for part in of_like_lengths(batch, most_tokens=100)) <= 20


def test_targets_of_their_own_count_as_tokens(next_step: Any) -> None:
    by_tokens = {"tokens_per_step": 120, "max_tokens_per_batch": 120}
    step = next_step([4] * 6, [2, 100, 3, 90, 2, 96], **by_tokens)
    assert step.lengths == [6, 104, 7, 94, 6, 100]
    assert [[row.num_tokens for _, row in batch] for batch in pack([step], CPU)] == [[104], [100], [94], [7, 6, 6]]
    planned = [step.run.schedule.rows(number)[1] for number in range(step.run.schedule.total_steps)]
    assert all(sum(step.lengths[row] for row in rows) <= 120 for rows in planned)
    assert (longest([(step, row) for row in step.rows]), size([(step, row) for row in step.rows])) == (104, 6 * 104)
