"""Answers that are pieces of a context."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import ByT5Tokenizer

from petune import api
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.data.batching import collate
from petune.data.examples import Example, ExampleSet
from petune.data.layouts import UNANSWERABLE
from petune.errors import DataError
from petune.tasks.registry import TASKS
from petune.training.run import train

Make = Callable[..., str]
TASK = TASKS["question_answering"]
CONTEXT = "It was in Rome that she stayed, and then in Paris."


def examples(answers: object, question: str = "where?", context: str = CONTEXT) -> ExampleSet:
    fields = {"question": question, "context": context, "answers": answers}
    row = Example("x:1", (), question, "there", None, fields, add_special_tokens=True)
    return ExampleSet([row], source="x.jsonl", layout="question-answer")


@pytest.mark.parametrize(
    ("method", "architecture"),
    [("lora", "bert"), ("prefix_tuning", "bert"), ("prompt_tuning", "bert"), ("lora", "gpt2"), ("prefix_tuning", "t5")],
)
def test_trained_saved_loaded_and_asked(
    method: str, architecture: str, rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    data = rows("questions")
    recipe = {"model": base_folder(architecture), "data": data, "eval_data": data, "dtype": "float32", "method": method}
    recipe["task"] = "question_answering"
    train({**recipe, "max_steps": 4, "learning_rate": 1e-2, "output_dir": str(tmp_path / "out")})
    model = api.load(tmp_path / "out", dtype="float32")
    assert model.base.task == "question_answering"
    answers = api.predict(model, data)
    for answer in answers:
        start, end = answer.details["start"], answer.details["end"]
        assert answer.prediction == (UNANSWERABLE if start is None else answer.fields["context"][start:end])
    measured = api.evaluate(model, data)
    assert list(measured.metrics) == ["loss", "span_exact_match", "span_f1"]
    assert measured.predictions == tuple(answers)


@pytest.mark.parametrize("answers", [["Rome"], {"text": ["Rome"], "answer_start": [10]}])
def test_labels_are_the_places_of_the_answer(answers: object, tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base("bert").tokenizer
    (row,) = TASK.encode(examples(answers), tokenizer, labels=(), max_length=128).rows
    start, end = row.labels
    assert tokenizer.decode(row.input_ids[start : end + 1]) == "Rome"
    assert row.token_types == [0] * 8 + [1] * (len(CONTEXT) + 1)


def test_a_long_context_is_read_in_windows(tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base("bert").tokenizer
    encoded = TASK.encode(examples(["Paris"]), tokenizer, labels=(), max_length=31)
    texts = [tokenizer.decode(row.input_ids).split("</s>")[1] for row in encoded.rows]
    assert len(texts) > 2
    assert all(text in CONTEXT for text in texts)
    assert texts[0] == CONTEXT[:22]
    assert texts[-1].endswith("Paris.")
    for row, text in zip(encoded.rows, texts, strict=True):
        start, end = row.labels
        found = tokenizer.decode(row.input_ids[start : end + 1])
        assert found == ("Paris" if "Paris" in text else "<s>")
    assert f"overlapping windows: {len(texts)} of 1 rows" in encoded.report.notes[0]


def test_no_answer_is_the_first_token(tiny_base: Callable[..., Base]) -> None:
    (row,) = TASK.encode(examples([]), tiny_base("bert").tokenizer, labels=(), max_length=128).rows
    assert row.labels == [0, 0]


@pytest.mark.parametrize("method", ["lora", "prompt_tuning"])
def test_a_decoder_says_it_with_a_last_token_that_sees_the_context(
    method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base("gpt2", task="question_answering")
    options = {"placement": "after_bos", "num_virtual_tokens": 3} if method == "prompt_tuning" else {}
    model = AdaptedModel(base, [randomise(create_adapter(base, method, **options))])
    scores = []
    for context in (CONTEXT, CONTEXT.replace("Paris", "Milan")):
        data = examples([], context=context)
        (row,) = TASK.encode(data, base.tokenizer, labels=(), max_length=128, insertions=model.insertions).rows
        assert row.labels == [len(row.input_ids) - 1] * 2
        assert row.input_ids[-1] == base.tokenizer.eos_token_id
        ((window,),) = TASK.inputs(model, data)
        assert window.input_ids == row.input_ids
        with torch.no_grad():
            output = model(input_ids=torch.tensor([row.input_ids]))
        scores.append(TASK.read(output, 0, window)[1])
        full = TASK.encode(data, base.tokenizer, labels=(), max_length=31, insertions=model.insertions).rows
        assert max(len(part.input_ids) for part in full) == 31
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)


def test_the_best_span_lies_in_the_context_and_runs_forward(tiny_base: Callable[..., Base]) -> None:
    runner = AdaptedModel(tiny_base("bert", task="question_answering"))
    rows = examples(None)
    ((window,),) = TASK.inputs(runner, rows)
    size = len(window.input_ids)
    starts, ends = torch.zeros(1, size), torch.zeros(1, size)
    starts[0, 2], ends[0, 3] = 9, 9  # in the question
    starts[0, 18], ends[0, 21], ends[0, 12] = 5, 5, 6  # one end lies before the start
    kept = TASK.read(SimpleNamespace(start_logits=starts, end_logits=ends), 0, window)
    answer = TASK.answer(runner, rows[0], [kept])
    assert (answer.prediction, answer.details["start"], answer.reference) == ("Rome", 10, None)
    starts[0, 0] = ends[0, 0] = 20
    kept = TASK.read(SimpleNamespace(start_logits=starts, end_logits=ends), 0, window)
    assert TASK.answer(runner, rows[0], [kept]).prediction == UNANSWERABLE


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_the_loss_does_not_depend_on_the_batch(architecture: str, tiny_base: Callable[..., Base], rows: Make) -> None:
    model = AdaptedModel(tiny_base(architecture, task="question_answering"))
    asked = [{"question": "where?", "context": CONTEXT[:end], "answers": ["Rome"]} for end in (15, 30, len(CONTEXT))]
    data = rows(asked)
    alone, together = (api.evaluate(model, data, metrics=("loss",), batch_tokens=size) for size in (1, 10_000))
    assert together.row_losses == pytest.approx(alone.row_losses, abs=1e-5)
    _, encoded = api.read_rows(model, data)
    batch = collate(encoded.rows, pad_token_id=0)
    labels = batch.pop("labels")
    losses = TASK.objective(model.model, lambda module: False)(batch, labels)
    assert losses.tolist() == pytest.approx(list(alone.row_losses.values()), abs=1e-5)


def test_rows_that_cannot_be_used(tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base("bert").tokenizer
    with pytest.raises(DataError, match="the answer is no piece of its context in 1 of 1 rows: x:1; write answers as"):
        TASK.encode(examples(["Berlin"]), tokenizer, labels=(), max_length=128)
    with pytest.raises(DataError, match="x:1: the question has 30 tokens, which leaves no room for its context in 32"):
        TASK.encode(examples(["Rome"], question="?" * 30), tokenizer, labels=(), max_length=32)
    with pytest.raises(DataError, match="x:1: question or context is empty"):
        TASK.encode(examples([], context=" "), tokenizer, labels=(), max_length=32)
    with pytest.raises(DataError, match="the tokenizer ByT5Tokenizer cannot tell where in a text a token"):
        TASK.encode(examples(["Rome"]), ByT5Tokenizer(), labels=(), max_length=128)
