"""Which queries predict a token of the answer."""

import pytest
import torch

from petune.errors import ConfigError
from petune.sites.answers import predicts_answer


def causal(queries: int, keys: int) -> torch.Tensor:
    return torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]


def test_from_the_last_token_before_the_answer() -> None:
    mask = causal(5, 5).expand(3, 1, 5, 5)
    found = predicts_answer(mask, torch.tensor([3, 0, 5]))
    assert found.tolist() == [
        [False, False, True, True, True],
        [True] * 5,
        [False, False, False, False, True],
    ]


def test_padding_and_windows_do_not_move_a_token() -> None:
    padded, window = causal(5, 5).clone(), causal(5, 5) & causal(5, 5).flip(-1).flip(-2)
    padded[..., :2] = False
    window = torch.ones(5, 5, dtype=torch.bool).tril().triu(-1)[None, None]
    for mask in (padded, window):
        assert predicts_answer(mask, torch.tensor([4]))[0, 2:].tolist() == [False, True, True]


def test_tokens_in_a_cache_and_room_left_in_one_count() -> None:
    # Two new tokens after four in a static cache of ten.
    mask = torch.zeros(1, 1, 2, 10, dtype=torch.bool)
    mask[..., 0, :5], mask[..., 1, :6] = True, True
    assert predicts_answer(mask, torch.tensor([6])).tolist() == [[False, True]]
    assert predicts_answer(mask, torch.tensor([4])).tolist() == [[True, True]]


def test_masks_that_are_added_and_rows_that_beams_repeat() -> None:
    added = torch.zeros(4, 2, 3, 3).masked_fill(~causal(3, 3), torch.finfo(torch.float32).min)
    found = predicts_answer(added, torch.tensor([3, 2]))
    assert found.tolist() == [[False, False, True]] * 2 + [[False, True, True]] * 2


def test_nobody_said_where_it_begins() -> None:
    with pytest.raises(ConfigError, match="nobody said where the answer begins"):
        predicts_answer(causal(2, 2), None)
