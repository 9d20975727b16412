import math

import pytest

from petune.errors import ConfigError
from petune.evaluation.metrics import (
    METRICS,
    compute,
    higher_is_better,
    perplexity,
    require_direction,
    resolve_metric,
)

REFERENCES = ["a", "a", "b", "b", "c"]
PREDICTIONS = ["a", "b", "b", "b", "a"]


def value(name: str, predictions: list[str], references: list[str]) -> float:
    return compute(METRICS[name], predictions, references)[name]


def test_table_holds_the_metrics_of_the_command_line() -> None:
    names = ["loss", "perplexity", "accuracy", "f1", "f1_weighted", "exact_match", "bleu", "rouge_l"]
    names += ["tag_accuracy", "entity_precision", "entity_recall", "entity_f1", "span_exact_match", "span_f1"]
    assert list(METRICS) == names
    assert all(metric.name == name and metric.doc for name, metric in METRICS.items())


def test_loss_and_perplexity() -> None:
    assert compute(METRICS["loss"], 1.5) == {"loss": 1.5}
    assert compute(METRICS["perplexity"], 1.5)["perplexity"] == pytest.approx(4.481689)
    assert perplexity(1e6) == math.inf


def test_accuracy() -> None:
    assert value("accuracy", PREDICTIONS, REFERENCES) == pytest.approx(3 / 5)


def test_f1_by_hand() -> None:
    # a: precision 1/2, recall 1/2; b: precision 2/3, recall 1; c: never predicted.
    a, b, c = 0.5, 0.8, 0.0
    assert value("f1", PREDICTIONS, REFERENCES) == pytest.approx((a + b + c) / 3)
    assert value("f1_weighted", PREDICTIONS, REFERENCES) == pytest.approx((2 * a + 2 * b + c) / 5)


def test_exact_match_ignores_outer_white_space_only() -> None:
    assert value("exact_match", [" yes\n", "Yes", "no way"], ["yes", "yes", "no way"]) == pytest.approx(2 / 3)


def test_bleu_by_hand() -> None:
    # n-gram precisions 6/7, 5/6, 4/5, 3/4: their product is 3/7; no brevity penalty.
    got = value("bleu", ["the cat sat on the mat today"], ["the cat sat on the mat"])
    assert got == pytest.approx(100 * (3 / 7) ** 0.25)
    # Precisions 1; five words for six: brevity penalty exp(1 - 6/5).
    got = value("bleu", ["the cat sat on the"], ["the cat sat on the mat"])
    assert got == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_bleu_splits_chinese_by_character() -> None:
    # Precisions 5/6, 4/5, 3/4, 2/3: their product is 1/3. As one word the two sentences would share nothing.
    got = value("bleu", ["我喜欢看电影"], ["我喜欢看电视"])
    assert got == pytest.approx(100 * (1 / 3) ** 0.25)


def test_rouge_l_by_hand() -> None:
    # Longest common subsequence "the sat": precision 2/3, recall 2/4.
    first = 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)
    got = value("rouge_l", ["The cat sat.", "nothing"], ["the dog sat down", "shared here"])
    assert got == pytest.approx(first / 2)


@pytest.mark.parametrize(
    ("prediction", "reference", "precision", "recall"),
    [("我喜欢电影", "我喜欢看电视", 4 / 5, 4 / 6), ("Привет мир", "привет, большой мир", 1.0, 2 / 3)],
)
def test_rouge_l_keeps_other_scripts(prediction: str, reference: str, precision: float, recall: float) -> None:
    expected = 2 * precision * recall / (precision + recall)
    assert value("rouge_l", [prediction], [reference]) == pytest.approx(expected)


def test_unknown_metric_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'acuracy'; choose from loss, .*'accuracy'\?"):
        resolve_metric("acuracy")


def test_which_way_is_better() -> None:
    assert [higher_is_better(name) for name in ("accuracy", "loss", "perplexity", "mine")] == [True, False, False, True]
    assert [higher_is_better(name, False) for name in ("accuracy", "loss", "mine")] == [True, False, False]
    for name, said in (("mine", False), ("mine", True), ("loss", False), ("f1", True), ("loss", None)):
        require_direction(name, said)
    with pytest.raises(ConfigError, match="greater_is_better is true, and of loss less is better"):
        require_direction("loss", True)
    with pytest.raises(ConfigError, match="greater_is_better is false, and of accuracy more is better"):
        require_direction("accuracy", False)
