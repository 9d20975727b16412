"""The repetition penalty with ids beyond the vocabulary."""

import torch

from petune.evaluation.penalty import repetition_penalty


def test_virtual_tokens_are_left_out_and_others_penalised_once() -> None:
    scores = torch.tensor([[4.0, -2.0, 6.0, 8.0, 1.0]] * 2)
    ids = torch.tensor([[5, 6, 2, 1, 2], [3, 5, 3, 7, 6]])  # from 5 on there is no such word
    (processor,) = repetition_penalty(2.0)
    assert processor(ids, scores).tolist() == [[4.0, -4.0, 3.0, 8.0, 1.0], [4.0, -2.0, 6.0, 4.0, 1.0]]


def test_a_penalty_of_one_is_none() -> None:
    assert list(repetition_penalty(1.0)) == []
