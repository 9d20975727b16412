import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from petune.data.encoding import encode
from petune.data.examples import ExampleSet, Segment
from petune.errors import ConfigError, DataError
from petune.evaluation.evaluate import evaluate
from petune.evaluation.generate import generate
from petune.evaluation.loss import token_loss
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.scoring import score_choices

LABELS = ("negative", "positive")


@pytest.mark.parametrize(("labels", "passes"), [((), 5), (("negative", "positive", "so-so"), 15)])
def test_label_words_are_scored_on_the_way_of_the_loss(runner, reviews, labels: tuple[str, ...], passes: int) -> None:
    """Words of one token need no pass of their own; of several, the right one."""
    ran: list[int] = []
    handle = runner.model.register_forward_pre_hook(lambda m, a, k: ran.append(len(k["input_ids"])), with_kwargs=True)
    result = evaluate(runner, reviews, EvaluationOptions(labels=labels))
    handle.remove()
    assert sum(ran) == passes
    alone = [evaluate(runner, reviews, EvaluationOptions(labels=labels, metrics=(name,))) for name in result.metrics]
    for own in alone:
        for name, value in own.metrics.items():
            assert result.metrics[name] == pytest.approx(value, abs=1e-5)
    shares = [prediction.probabilities for prediction in alone[1].predictions]
    for prediction, expected in zip(result.predictions, shares, strict=True):
        assert prediction.probabilities == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def answers(row) -> ExampleSet:
    rows = [row("the river rises", "in the hills"), row("the film", "was dull", origin="rows.jsonl:2")]
    return ExampleSet(rows, source="rows.jsonl", layout="prompt-completion")


def test_classification_rows_get_loss_accuracy_and_f1(runner, reviews) -> None:
    result = evaluate(runner, reviews)
    assert list(result.metrics) == ["loss", "accuracy", "f1"]
    chosen = [choice.label for choice in score_choices(runner, reviews, LABELS)]
    right = [c == e.target for c, e in zip(chosen, reviews, strict=True)]
    assert result.metrics["accuracy"] == pytest.approx(sum(right) / 5)
    rows = encode(reviews, runner.tokenizer, max_length=96).rows
    assert result.metrics["loss"] == pytest.approx(token_loss(runner, rows).mean)
    assert result.num_label_tokens == 10  # a label and its EOS for each row
    assert [p.prediction for p in result.predictions] == chosen
    assert (result.labels, result.num_rows) == (LABELS, 5)
    assert result.seconds > 0


def test_f1_is_that_of_the_choices(runner, reviews) -> None:
    result = evaluate(runner, reviews, EvaluationOptions(metrics=("f1",)))
    pairs = Counter((p.prediction, p.reference) for p in result.predictions)
    scores = []
    for label in LABELS:
        predicted = sum(n for (p, _), n in pairs.items() if p == label)
        actual = sum(n for (_, r), n in pairs.items() if r == label)
        scores.append(2 * pairs[label, label] / (predicted + actual))
    assert result.metrics["f1"] == pytest.approx(sum(scores) / 2)


def test_other_rows_get_loss_and_perplexity(runner, answers) -> None:
    result = evaluate(runner, answers)
    assert list(result.metrics) == ["loss", "perplexity"]
    assert result.metrics["perplexity"] == pytest.approx(torch.tensor(result.metrics["loss"]).exp().item())
    assert result.predictions == ()
    assert result.labels == ()


def test_plain_text_has_a_loss(runner, row) -> None:
    text = replace(row("the river rises in the hills"), segments=(Segment("the river rises in the hills", True),))
    result = evaluate(runner, ExampleSet([text], source="rows.jsonl", layout="text"))
    # The first token has nothing to be predicted from; the EOS is learned.
    assert result.num_label_tokens == len(runner.tokenizer(text.prompt)["input_ids"])


def test_text_metrics_compare_generated_text(runner, row) -> None:
    prompts = ["the river rises", "dull"]
    written = [g.text.strip() for g in generate(runner, prompts, GenerationOptions(max_new_tokens=6))]
    rows = ExampleSet([row(prompts[0], written[0]), row(prompts[1], "none")], source="r", layout="prompt-completion")
    options = EvaluationOptions(metrics=("exact_match", "rouge_l", "bleu", "loss"), max_new_tokens=6)
    result = evaluate(runner, rows, options)
    assert list(result.metrics) == ["exact_match", "rouge_l", "bleu", "loss"]
    assert result.metrics["exact_match"] == 0.5
    assert [p.prediction for p in result.predictions] == written


def test_what_only_a_head_marks_is_refused(runner, reviews) -> None:
    with pytest.raises(ConfigError, match=r"metric 'span_f1' compares spans, which a head marks .*choose from loss, "):
        evaluate(runner, reviews, EvaluationOptions(metrics=("loss", "span_f1")))


def test_encoded_rows_are_used_where_given(runner, reviews) -> None:
    rows = encode(reviews, runner.tokenizer, max_length=96).rows[:2]
    result = evaluate(runner, reviews, EvaluationOptions(metrics=("loss",)), rows=rows)
    assert result.metrics["loss"] == pytest.approx(token_loss(runner, rows).mean)


def test_labels_by_flag_for_rows_of_another_layout(runner, row) -> None:
    rows = [row("dull,", "negative"), row("a quiet joy,", "positive")]
    data = ExampleSet(rows, source="r", layout="prompt-completion")
    result = evaluate(runner, data, EvaluationOptions(metrics=("accuracy",), labels=LABELS))
    by_default = evaluate(runner, data, EvaluationOptions(labels=LABELS))
    assert list(by_default.metrics) == ["loss", "accuracy", "f1"]
    assert by_default.metrics["accuracy"] == result.metrics["accuracy"]
    assert list(evaluate(runner, data, EvaluationOptions(labels=("other", "words"))).metrics) == ["loss", "perplexity"]
    expected = [c.label == e.target for c, e in zip(score_choices(runner, rows, LABELS), rows, strict=True)]
    assert result.metrics["accuracy"] == pytest.approx(sum(expected) / 2)


def test_user_metric_sees_labels_or_text(runner, reviews, answers, tmp_path: Path) -> None:
    file = tmp_path / "seen.py"
    file.write_text(
        "def metric(predictions, references):\n"
        "    known = sum(p in ('negative', 'positive') for p in predictions)\n"
        "    return {'known': known, 'rows': len(references)}\n",
        encoding="utf-8",
    )
    options = EvaluationOptions(metrics=(str(file),), max_new_tokens=4)
    assert evaluate(runner, reviews, options).metrics == {"known": 5, "rows": 5}
    assert evaluate(runner, answers, options).metrics == {"known": 0, "rows": 2}


def test_result_is_ready_for_json(runner, reviews) -> None:
    result = evaluate(runner, reviews)
    read = json.loads(json.dumps(result.to_dict()))
    assert read["metrics"] == result.metrics
    assert set(read) == {"metrics", "labels", "num_rows", "num_label_tokens", "seconds"}


def test_the_model_stays_as_it_was(runner, reviews) -> None:
    runner.model.train()
    before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
    evaluate(runner, reviews, EvaluationOptions(metrics=("loss", "accuracy", "exact_match"), max_new_tokens=2))
    assert all(module.training for module in runner.model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in runner.model.state_dict().items())


def test_a_metric_without_what_it_needs(runner, answers, row) -> None:
    with pytest.raises(DataError, match=r"'accuracy' compares label words, but the rows of rows\.jsonl .*--labels"):
        evaluate(runner, answers, EvaluationOptions(metrics=("accuracy",)))
    rows = ExampleSet([row("dull", origin="rows.jsonl:4")], source="rows.jsonl", layout="prompt-completion")
    with pytest.raises(DataError, match=r"'bleu' compares with a target, but 1 of 1 rows have none: rows\.jsonl:4;"):
        evaluate(runner, rows, EvaluationOptions(metrics=("bleu",)))


def test_a_target_that_is_no_label(runner, reviews) -> None:
    options = EvaluationOptions(labels=("positive", "negativ"))
    with pytest.raises(
        DataError,
        match=r"3 of 5 rows have a target that is none .* 'negative' at rows\.jsonl:2\. Did you mean 'neg",
    ):
        evaluate(runner, reviews, options)


def test_no_rows(runner) -> None:
    with pytest.raises(DataError, match=r"empty\.csv: no rows to measure"):
        evaluate(runner, ExampleSet([], source="empty.csv", layout="text"))


def test_one_name_for_one_metric(runner, reviews, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two metrics are called 'loss'; ask for each once"):
        evaluate(runner, reviews, EvaluationOptions(metrics=("loss", "f1", "loss")))
    file = tmp_path / "mine.py"
    file.write_text("def metric(predictions, references):\n    return {'accuracy': 1}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'mine' returned 'accuracy', which another metric is called; rename it"):
        evaluate(runner, reviews, EvaluationOptions(metrics=("accuracy", str(file))))
