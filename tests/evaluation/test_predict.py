from dataclasses import replace

import pytest

from petune.errors import ConfigError
from petune.evaluation import predict as module
from petune.evaluation.generate import generate
from petune.evaluation.likelihood import CausalLikelihood
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import predict
from petune.evaluation.scoring import score_choices


def test_classification_rows_get_their_likeliest_label(runner, reviews) -> None:
    predictions = list(predict(runner, reviews))
    labels = ("negative", "positive")
    choices = score_choices(runner, reviews, labels)
    assert [p.prediction for p in predictions] == [c.label for c in choices]
    assert [p.reference for p in predictions] == [e.target for e in reviews]
    for example, prediction, choice in zip(reviews, predictions, choices, strict=True):
        assert prediction.probabilities == dict(zip(labels, choice.probabilities, strict=True))
        assert sum(prediction.probabilities.values()) == pytest.approx(1)
        assert prediction.to_dict() == {
            "text": example.fields["text"],
            "prediction": choice.label,
            "probabilities": prediction.probabilities,
        }


def test_rows_without_targets_get_text(runner, row) -> None:
    rows = [row("the river", origin="r:1"), row("dull", origin="r:2")]
    options = GenerationOptions(max_new_tokens=5)
    predictions = list(predict(runner, rows, generation=options))
    expected = [g.text.strip() for g in generate(runner, ["the river", "dull"], options)]
    assert [p.prediction for p in predictions] == expected
    assert predictions[1].to_dict() == {"text": "dull", "prediction": expected[1]}
    assert [p.origin for p in predictions] == ["r:1", "r:2"]
    assert predictions[0].reference is None
    assert list(predict(runner, rows, EvaluationOptions(max_new_tokens=5))) == predictions


@pytest.mark.parametrize(
    ("lead", "written"),
    [
        ("<think>\n\n</think>\n\n", "<think>\n\n</think>\n\nthe hills"),
        ("<|im_start|>final<|im_end|>\n", "final\nthe hills"),
    ],
)
def test_what_a_chat_template_writes_before_answers_is_no_part_of_them(runner, row, lead: str, written: str) -> None:
    class Written(CausalLikelihood):  # type: ignore[misc]
        def texts(self, runner, examples, options, *, first_row=0) -> list[str]:
            return [written, "hills"]

    rows = [replace(row("where?", "the hills"), add_special_tokens=False, lead=lead)] * 2
    found = predict(runner, rows, likelihood=Written())
    assert [(p.prediction, p.reference) for p in found] == [("the hills", "the hills"), ("hills", "the hills")]


def test_labels_may_be_named_for_rows_without_targets(runner, reviews, row) -> None:
    rows = [row(e.prompt) for e in reviews]
    named = list(predict(runner, rows, EvaluationOptions(labels=("negative", "positive"))))
    assert [p.prediction for p in named] == [p.prediction for p in predict(runner, reviews)]


def test_rows_of_one_class_get_text(runner, reviews) -> None:
    rows = [replace(e, target="positive", choices_key="positive") for e in reviews]
    (first, *_) = predict(runner, rows, generation=GenerationOptions(max_new_tokens=3))
    assert first.probabilities is None


def test_windows_change_nothing(runner, reviews, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [p.prediction for p in predict(runner, reviews)]
    text = [p.prediction for p in predict(runner, [replace(e, choices_key=None) for e in reviews])]
    for name in ("_LABEL_WINDOW", "_TEXT_WINDOW"):
        monkeypatch.setattr(module, name, 2)
    assert [p.prediction for p in predict(runner, reviews)] == whole
    assert [p.prediction for p in predict(runner, [replace(e, choices_key=None) for e in reviews])] == text


def test_labels_are_checked_before_the_first_row(runner, reviews) -> None:
    with pytest.raises(ConfigError, match="at least two labels, got 'good' alone"):
        predict(runner, reviews, EvaluationOptions(labels=("good",)))
