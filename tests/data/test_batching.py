import random
import time
from itertools import pairwise

import pytest
import torch

from petune.data.batching import answer_starts, collate, padded_tokens, plan_steps, split_step
from petune.data.encoding import IGNORED, Encoded
from petune.errors import ConfigError


def random_lengths(seed: int) -> list[int]:
    rng = random.Random(seed)
    return [int(rng.lognormvariate(4, 1)) + 1 for _ in range(rng.randrange(1, 400))]


def padded(batch: list[int], lengths: list[int]) -> int:
    return len(batch) * max(lengths[row] for row in batch)


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(("rows", "tokens"), [(8, None), (None, 600), (16, 900), (1, None), (1000, None)])
@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_step_and_the_limits_hold(seed, rows, tokens, group):
    lengths = random_lengths(seed)
    steps = plan_steps(lengths, rows_per_step=rows, tokens_per_step=tokens, seed=seed, epoch=0, group_by_length=group)
    assert sorted(row for step in steps for row in step) == list(range(len(lengths)))
    for step in steps:
        assert rows is None or len(step) <= rows
        assert tokens is None or len(step) == 1 or sum(lengths[row] for row in step) <= tokens
    if tokens is None:
        assert len(steps) == -(-len(lengths) // rows), "only the last step may be short"


def plan(lengths, *, seed=1, epoch=0, group=True):
    return plan_steps(lengths, rows_per_step=8, tokens_per_step=None, seed=seed, epoch=epoch, group_by_length=group)


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = random_lengths(3) * 3
    assert plan(lengths) == plan(lengths)
    orders = [plan(lengths, seed=seed, epoch=epoch) for seed, epoch in [(1, 0), (1, 1), (2, 0), (2, 1)]]
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


def test_like_lengths_together_waste_less_and_long_steps_are_not_all_first():
    lengths = random_lengths(1) * 20
    waste = {
        group: sum(padded(step, lengths) for step in plan(lengths, group=group)) / sum(lengths)
        for group in (True, False)
    }
    assert waste[True] < 1.1 < 1.5 < waste[False]
    longest = [max(lengths[row] for row in step) for step in plan(lengths)]
    drops = sum(later < earlier for earlier, later in pairwise(longest))
    assert 0.3 < drops / len(longest) < 0.7, "steps come in no order of length"


def test_no_rows_make_no_steps():
    assert plan([]) == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"rows_per_step": None, "tokens_per_step": None}, "a step has no size"),
        (
            {"rows_per_step": 0, "tokens_per_step": None},
            "rows_per_step is 0; give a whole number",
        ),
        ({"rows_per_step": None, "tokens_per_step": -5}, "tokens_per_step is -5"),
    ],
)
def test_impossible_limits(limits, message):
    with pytest.raises(ConfigError, match=message):
        plan_steps([1, 2], seed=1, epoch=0, group_by_length=True, **limits)
    with pytest.raises(ConfigError, match="max_rows is 0"):
        split_step([0], [1], max_rows=0, max_tokens=None)


@pytest.mark.parametrize(("max_rows", "max_tokens"), [(None, 2000), (8, None), (4, 500), (None, None)])
@pytest.mark.parametrize("seed", range(5))
def test_micro_batches_hold_every_row_once_within_the_limits(seed, max_rows, max_tokens):
    lengths = random_lengths(seed)
    rows = random.Random(seed).sample(range(len(lengths)), min(64, len(lengths)))
    batches = split_step(rows, lengths, max_rows=max_rows, max_tokens=max_tokens)

    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    for batch in batches:
        assert max_rows is None or len(batch) <= max_rows
        assert max_tokens is None or len(batch) == 1 or padded(batch, lengths) <= max_tokens
    assert lengths[batches[0][0]] == max(lengths[row] for row in rows), "the longest first"
    assert split_step(list(reversed(rows)), lengths, max_rows=max_rows, max_tokens=max_tokens) == batches


def brute_force(lengths: list[int], max_tokens: int) -> int:
    """Return the least cost over all ways to cut the sorted lengths."""
    ordered = sorted(lengths, reverse=True)
    costs = []
    for cuts in range(2 ** (len(ordered) - 1)):
        bounds = [0, *(i + 1 for i in range(len(ordered) - 1) if cuts >> i & 1), len(ordered)]
        parts = [ordered[a:b] for a, b in pairwise(bounds)]
        if all(len(part) == 1 or len(part) * part[0] <= max_tokens for part in parts):
            costs.append(sum(len(part) * part[0] + 64 for part in parts))
    return min(costs)


@pytest.mark.parametrize("seed", range(20))
def test_the_split_is_the_cheapest(seed):
    rng = random.Random(seed)
    lengths = [rng.randrange(1, 300) for _ in range(9)]
    batches = split_step(range(9), lengths, max_rows=None, max_tokens=600)
    assert sum(padded(batch, lengths) + 64 for batch in batches) == brute_force(lengths, 600)


def test_a_row_beyond_the_limit_is_alone():
    assert split_step([0, 1, 2], [5000, 10, 10], max_rows=None, max_tokens=100) == [[0], [1, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_prompts_and_targets_are_padded_apart_and_stay_within_the_limit(seed):
    rng = random.Random(seed)
    sizes = [(rng.randrange(1, 150), rng.randrange(1, 150)) for _ in range(64)]
    rows = [Encoded([5] * prompt, [5] * target, str(i), is_pair=True) for i, (prompt, target) in enumerate(sizes)]
    lengths, targets = [row.num_tokens for row in rows], [row.target_tokens for row in rows]
    batches = split_step(range(64), lengths, max_rows=None, max_tokens=1000, targets=targets)
    assert sorted(row for batch in batches for row in batch) == list(range(64))
    for batch in batches:
        own = collate([rows[i] for i in batch], pad_token_id=0)
        assert padded_tokens([rows[i] for i in batch]) == own["input_ids"].numel() + own["labels"].numel()
        assert len(batch) == 1 or padded_tokens([rows[i] for i in batch]) <= 1000
    crossed = split_step([0, 1], [102, 102], max_rows=None, max_tokens=250, targets=[2, 100])
    assert crossed == [[0], [1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_told_by_position_though_pad_is_eos(side):
    eos = 9
    rows = [
        Encoded([1, 2, eos], [IGNORED, 2, eos], "a:1"),
        Encoded([3, 4, 5, 6, eos], [3, 4, 5, 6, eos], "a:2"),
    ]
    batch = collate(rows, pad_token_id=eos, side=side)

    assert list(batch) == ["input_ids", "attention_mask", "labels"]
    assert all(tensor.shape == (2, 5) and tensor.dtype == torch.int64 for tensor in batch.values())
    for number, row in enumerate(rows):
        attended = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][attended].tolist() == row.input_ids
        assert batch["labels"][number][attended].tolist() == row.labels
        assert (batch["labels"][number][~attended] == IGNORED).all()
        assert (batch["input_ids"][number][~attended] == eos).all()
    assert batch["attention_mask"][0].tolist() == ([0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0])


def test_a_whole_data_set_is_split_in_seconds():
    lengths = random_lengths(2) * 100
    started = time.process_time()
    batches = split_step(range(len(lengths)), lengths, max_rows=None, max_tokens=None)
    assert time.process_time() - started < 20
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))


def test_answers_start_at_the_first_learned_token() -> None:
    labels = ([IGNORED, IGNORED, 3, IGNORED, 5], [1, 2], [IGNORED, IGNORED])
    rows = [Encoded([1, 2, 3, 4, 5][: len(row)], list(row), "") for row in labels]
    assert answer_starts(rows) == [2, 0, 2]
