import math
from dataclasses import replace

import pytest
import torch

from petune.data.examples import Segment
from petune.errors import ConfigError, DataError
from petune.evaluation.scoring import answer_lead, check_labels, distinct_labels, score_choices

LABELS = ("negative", "positive")


def oracle(runner, log_probabilities, prompt: str, label: str, ends: list[int]) -> float:
    """Sum over the label's tokens and its end, one full forward pass for this row and label alone."""
    start = len(runner.tokenizer(prompt)["input_ids"])
    ids = runner.tokenizer(f"{prompt} {label}")["input_ids"]
    rows = log_probabilities(ids)
    score = sum(rows[t - 1, ids[t]].item() for t in range(start, len(ids)))
    return score + math.log(sum(rows[len(ids) - 1, end].exp().item() for end in ends))


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_one_token_labels_equal_a_plain_loop(runner, reviews, full_log_probabilities, batch_tokens: int) -> None:
    ids = [runner.tokenizer(f" {label}")["input_ids"][0] for label in LABELS]
    for example, choice in zip(reviews, score_choices(runner, reviews, LABELS, batch_tokens=batch_tokens), strict=True):
        expected = full_log_probabilities(runner.tokenizer(example.prompt)["input_ids"])[-1, ids]
        torch.testing.assert_close(torch.tensor(choice.log_probabilities), expected, atol=1e-4, rtol=0)
        assert choice.label == LABELS[int(expected.argmax())]
        shares = expected.double().softmax(0).tolist()
        assert choice.probabilities == pytest.approx(shares, abs=1e-4)


def test_one_token_labels_need_one_pass_for_each_row(runner, reviews) -> None:
    rows = []
    handle = runner.model.register_forward_pre_hook(lambda m, a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    score_choices(runner, reviews, LABELS)
    assert sum(rows) == len(reviews)
    score_choices(runner, reviews, ("negative", "not bad"))
    assert sum(rows) == len(reviews) + 2 * len(reviews)
    handle.remove()


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
@pytest.mark.parametrize("ends", [[0], [0, 2]])
def test_labels_of_several_tokens_equal_a_plain_loop(
    runner, reviews, full_log_probabilities, batch_tokens: int, ends: list[int]
) -> None:
    runner.model.generation_config.eos_token_id = ends
    labels = ("positive", "positively good", "so-so")
    for example, choice in zip(
        reviews,
        score_choices(runner, reviews, labels, batch_tokens=batch_tokens),
        strict=True,
    ):
        expected = [oracle(runner, full_log_probabilities, example.prompt, label, ends) for label in labels]
        assert choice.log_probabilities == pytest.approx(expected, abs=1e-4)
        assert choice.label == labels[expected.index(max(expected))]


def test_without_any_end_token(runner, row, full_log_probabilities) -> None:
    runner.model.generation_config.eos_token_id = None
    eos = runner.tokenizer.eos_token
    runner.tokenizer.eos_token = None
    try:
        (choice,) = score_choices(runner, [row("the hills")], ("so-so", "fair"))
    finally:
        runner.tokenizer.eos_token = eos
    ids = runner.tokenizer("the hills so-so")["input_ids"]
    start = len(runner.tokenizer("the hills")["input_ids"])
    rows = full_log_probabilities(ids)
    expected = sum(rows[t - 1, ids[t]].item() for t in range(start, len(ids)))
    assert choice.log_probabilities[0] == pytest.approx(expected, abs=1e-4)


def test_lead_is_that_of_training_text(row) -> None:
    assert answer_lead(row("Label:", "positive")) == " "
    assert answer_lead(row("Label:")) == " "
    assert answer_lead(row("Label: ")) == ""
    assert answer_lead(replace(row("标签："), lead="")) == ""
    chinese = replace(row("标签：", "好"), segments=(Segment("标签：", False), Segment("好", True)))
    assert answer_lead(chinese) == ""
    lines = replace(row("Label:", "good"), segments=(Segment("Label:", False), Segment("\n\ngood", True)))
    assert answer_lead(lines) == "\n\n"
    assert answer_lead(replace(row("<|im_start|>assistant"), add_special_tokens=False)) == ""


def test_distinct_labels_are_sorted(reviews) -> None:
    assert distinct_labels(reviews) == ("negative", "positive")


def test_no_rows(runner) -> None:
    assert score_choices(runner, [], LABELS) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "at least two labels, got none"),
        (("good",), "at least two labels, got 'good' alone; name them all with --labels"),
        (("good", " bad"), "label ' bad' is empty or has white space around it"),
        (("good", ""), "label '' is empty"),
        (("good", "bad", "good"), "label 'good' is given twice; give each label once"),
    ],
)
def test_labels_that_cannot_be_compared(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_labels(labels)


def test_rows_longer_than_the_context(runner, row) -> None:
    long = row("green " * 120, origin="rows.jsonl:7")
    with pytest.raises(DataError, match=r"1 of 2 rows with their labels are longer .* of 96 tokens: rows\.jsonl:7;"):
        score_choices(runner, [row("short"), long], LABELS)


def test_a_row_without_a_prompt(runner, row) -> None:
    with pytest.raises(DataError, match=r"no token comes before the label in rows\.jsonl:3; give each row a prompt"):
        score_choices(runner, [row("", origin="rows.jsonl:3")], LABELS)
