"""Which candidate is best; whole runs are tested with the method that chooses."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune import api
from petune.backbone.base import Base
from petune.training.run import train
from petune.training.selection import LABEL_LOSS, best


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


def test_of_a_metric_of_one_s_own_less_may_be_better() -> None:
    measured = [{"errors": 3.0}, {"errors": 1.0}, {"errors": math.nan}]
    assert (best(measured), best(measured, True), best(measured, False)) == (0, 0, 1)


def test_labels_that_validation_rows_lack_are_compared_too(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], write_rows: Callable[..., Path]
) -> None:
    rows = [{"text": f"row {i}", "label": "abc"[i % 3]} for i in range(9)]
    data = write_rows(tmp_path / "labelled.jsonl", rows)
    some = write_rows(tmp_path / "some.jsonl", [row for row in rows if row["label"] != "b"])
    chosen = train(keys(method="hard_prompts", data=str(data), eval_data=str(some)), base=tiny_base())
    answers = api.evaluate(chosen.model, some, metrics=["accuracy"]).predictions
    losses = [-math.log(answer.probabilities[str(answer.reference)]) for answer in answers if answer.probabilities]
    assert {len(answer.probabilities or ()) for answer in answers} == {3}
    assert chosen.history[0][f"eval_{LABEL_LOSS}"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
