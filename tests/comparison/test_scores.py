from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune import api
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.comparison.scores import row_scores, together
from petune.data.examples import ExampleSet
from petune.evaluation.evaluate import Evaluation, evaluate
from petune.evaluation.metrics import resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import Prediction


@pytest.fixture
def model(tiny_base: Callable[..., Base]) -> AdaptedModel:
    """A tiny model without an adapter."""
    return AdaptedModel(tiny_base("llama", num_hidden_layers=1))


@pytest.fixture
def data(tmp_path: Path, write_rows: Callable[..., Path]) -> Path:
    """Rows of different lengths with labels."""
    rows = [{"text": "word " * i, "label": "ab"[i % 2] * i} for i in range(1, 4)]
    return write_rows(tmp_path / "rows.jsonl", [*rows, {"text": "x", "label": "a"}, {"text": "y", "label": "bb"}])


def scores(model: AdaptedModel, data: Path, name: str) -> tuple[list[float], Any]:
    metric = resolve_metric(name)
    found = api.evaluate(model, data, metrics=(name,), max_new_tokens=3)
    examples, _ = api.read_rows(model, data)
    return row_scores(examples, metric, found), found


@pytest.mark.parametrize("name", ["accuracy", "exact_match", "rouge_l"])
def test_the_metric_is_the_mean_of_the_scores(name: str, model: AdaptedModel, data: Path) -> None:
    found, evaluation = scores(model, data, name)
    assert len(found) == 5
    assert sum(found) / 5 == pytest.approx(evaluation.metrics[name])


def test_losses_weighted_by_tokens_are_the_loss(model: AdaptedModel, data: Path) -> None:
    found, evaluation = scores(model, data, "loss")
    tokens = [len(f" {e.target}") + 1 for e in api.read_rows(model, data)[0]]  # one a byte, and the end
    assert sum(tokens) == evaluation.num_label_tokens
    weighted = sum(loss * n for loss, n in zip(found, tokens, strict=True)) / sum(tokens)
    assert weighted == pytest.approx(evaluation.metrics["loss"], abs=1e-5)
    examples, encoded = api.read_rows(model, data)
    for place, (example, row) in enumerate(zip(examples, encoded.rows, strict=True)):
        alone = evaluate(model, examples[place : place + 1], EvaluationOptions(metrics=("loss",)), rows=[row])
        assert (example.origin, found[place]) == (row.origin, pytest.approx(alone.metrics["loss"], abs=1e-5))


def test_a_user_s_own_metric(model: AdaptedModel, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def right(predictions, references):\n    return sum(map(str.__eq__, predictions, references))\n")
    found, evaluation = scores(model, data, f"{file}:right")
    assert sum(found) == evaluation.metrics["right"]


def test_rows_that_cannot_be_used_have_no_score(
    model: AdaptedModel, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": ""}, {"prompt": "d", "completion": "e"}]
    data = write_rows(tmp_path / "pairs.jsonl", [*rows, {"prompt": "f" * 60, "completion": "g"}])
    examples, encoded = api.read_rows(model, data, max_length=20, overlong="drop")
    found = api.evaluate(model, data, metrics=("loss",), max_length=20, overlong="drop")
    losses = row_scores(examples, resolve_metric("loss"), found)
    assert len(examples) == 4
    assert len(losses) == len({row.origin for row in encoded.rows}) < 4


def test_a_metric_of_several_rows_gives_no_scores(model: AdaptedModel, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("def many(predictions, references):\n    return 1 / (len(predictions) - 1)\n")
    found, evaluation = scores(model, data, f"{file}:many")
    assert evaluation.metrics["many"] == 0.25
    assert found == []


@pytest.mark.parametrize(
    ("metric", "others", "names", "apart"),
    [
        ("accuracy", ("f1", "exact_match"), ("loss", "accuracy", "f1", "exact_match"), ()),
        ("exact_match", ("accuracy", "bleu"), ("loss", "exact_match", "bleu"), ("accuracy",)),
        ("loss", ("perplexity",), ("loss", "perplexity"), ()),
        ("accuracy", ("accuracy", "loss"), ("loss", "accuracy"), ()),
    ],
)
def test_what_is_measured_together(metric: str, others: Any, names: Any, apart: Any) -> None:
    assert together(metric, others) == (names, apart)


def test_a_row_without_entities_is_right_where_none_was_found() -> None:
    tags = [("O", "O"), ("B-PER", "O"), ("O", "O"), ("B-PER", "O")]
    found = [("O", "O"), ("O", "O"), ("B-LOC", "O"), ("B-PER", "O")]
    answers = [Prediction(f"row {i}", {}, p, r, None) for i, (p, r) in enumerate(zip(found, tags, strict=True))]
    evaluation = Evaluation({}, tuple(answers), (), 4, 8, 0.0)
    assert row_scores(ExampleSet([], source="", layout=""), resolve_metric("entity_f1"), evaluation) == [1, 0, 0, 1]
