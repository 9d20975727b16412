"""Which candidate is best; whole runs are tested with the method that chooses."""

import pytest

from petune.training.selection import best


@pytest.mark.parametrize(
    ("measured", "index"),
    [
        ([{"accuracy": 0.5}, {"accuracy": 0.75}, {"accuracy": 0.75}], 1),
        ([{"accuracy": 0.5, "label_loss": 0.7}, {"accuracy": 0.5, "label_loss": 0.6}], 1),
        ([{"accuracy": 0.6, "label_loss": 0.7}, {"accuracy": 0.5, "label_loss": 0.6}], 0),
        ([{"loss": 2.0, "accuracy": 1.0}, {"loss": 1.5, "accuracy": 0.0}], 1),
        ([{"perplexity": float("inf")}, {"perplexity": 9.0}], 1),
        ([{"f1": float("nan")}, {"f1": 0.0}], 1),
    ],
)
def test_the_first_metric_decides_then_the_label_loss_then_the_order(
    measured: list[dict[str, float]], index: int
) -> None:
    assert best(measured) == index
