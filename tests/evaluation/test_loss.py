import pytest
import torch

from petune.data.encoding import Encoded
from petune.errors import DataError
from petune.evaluation.loss import TokenLoss, token_loss

ROWS = [
    Encoded([5, 6, 7, 8, 0], [-100, -100, 7, 8, 0], "r:1"),
    Encoded([9, 10, 11, 12, 13, 14, 15, 16], [9, -100, 11, -100, -100, 14, -100, -100], "r:2"),
    Encoded([17, 18], [-100, -100], "r:3"),
    Encoded([19, 0], [-100, 0], "r:4"),
]


@pytest.mark.parametrize("batch_tokens", [1, 10_000])
def test_equals_a_plain_loop(runner, full_log_probabilities, batch_tokens: int) -> None:
    terms = [
        -full_log_probabilities(row.input_ids)[t - 1, row.labels[t]].item()
        for row in ROWS
        for t in range(1, len(row.labels))
        if row.labels[t] != -100
    ]
    got = token_loss(runner, ROWS, batch_tokens=batch_tokens)
    assert got.tokens == len(terms) == 6
    assert got.total == pytest.approx(sum(terms), abs=1e-4)
    assert got.mean == pytest.approx(sum(terms) / 6, abs=1e-4)


def test_equals_the_loss_of_transformers(runner) -> None:
    row = ROWS[0]
    with torch.no_grad():
        expected = runner.model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.item()
    assert token_loss(runner, [row]).mean == pytest.approx(expected, abs=1e-4)


def test_perplexity() -> None:
    assert TokenLoss((("a:1", 4.0, 3), ("a:2", 2.0, 1))).perplexity == pytest.approx(4.481689)


def test_no_label_at_all(runner) -> None:
    with pytest.raises(DataError, match=r"none of the 1 rows has a label token .*give rows with targets"):
        token_loss(runner, [ROWS[2]])


def test_versions_of_a_row_are_taken_together_and_rows_without_labels_left_out() -> None:
    loss = TokenLoss((("a:1", 4.0, 3), ("a:1", 2.0, 1), ("a:2", 0.0, 0), ("a:3", 5.0, 2)))
    assert (loss.total, loss.tokens) == (11.0, 6)
    assert loss.by_origin == {"a:1": 1.5, "a:3": 2.5}
