"""A tag for every word."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from petune import api
from petune.backbone.base import Base
from petune.data.encoding import IGNORED
from petune.data.examples import Example, ExampleSet
from petune.errors import DataError
from petune.tasks.registry import TASKS
from petune.tasks.token_classification import first_subwords
from petune.training.run import train

Make = Callable[..., str]
TASK = TASKS["token_classification"]
TAGS = ("O", "B-LOC", "B-PER")


def examples(*rows: tuple[list[str], list[str] | None]) -> ExampleSet:
    found = [
        Example(f"x:{i}", (), " ".join(words), tags and " ".join(tags), None, {"tokens": words, "tags": tags}, True)
        for i, (words, tags) in enumerate(rows)
    ]
    return ExampleSet(found, source="x.jsonl", layout="tokens-tags")


@pytest.mark.parametrize("method", ["lora", "prefix_tuning", "prompt_tuning"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_trained_saved_loaded_and_asked(
    method: str, architecture: str, rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    data = rows("entities")
    recipe = {"model": base_folder(architecture), "task": "token_classification", "data": data, "dtype": "float32"}
    recipe |= {"method": method, "max_steps": 4, "learning_rate": 1e-2, "output_dir": str(tmp_path / "out")}
    result = train({**recipe, "eval_data": data, "metrics": ["entity_f1", "tag_accuracy"]})
    assert result.model.base.labels == TAGS
    model = api.load(tmp_path / "out", dtype="float32")
    answers = api.predict(model, data)
    assert [len(a.prediction) for a in answers] == [len(a.fields["tokens"]) for a in answers]
    assert {tag for a in answers for tag in a.prediction} <= set(TAGS)
    assert answers[1].to_dict()["prediction"] == list(answers[1].prediction)
    measured = api.evaluate(model, data).metrics
    assert list(measured) == ["loss", "tag_accuracy", "entity_f1"]
    pairs = [pair for a in answers for pair in zip(a.prediction, a.reference, strict=True)]
    assert measured["tag_accuracy"] == pytest.approx(sum(p == r for p, r in pairs) / len(pairs))


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_tags_stand_at_first_subwords(architecture: str, tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base(architecture).tokenizer
    words, tags = ["Anna", "is", "in", "Rome"], ["B-PER", "O", "O", "B-LOC"]
    (row,) = TASK.encode(examples((words, tags)), tokenizer, labels=TAGS, max_length=99).rows
    learned = [(tokenizer.decode([t]), TAGS[n]) for t, n in zip(row.input_ids, row.labels, strict=True) if n != IGNORED]
    assert learned == [("A", "B-PER"), ("i", "O"), ("i", "O"), ("R", "B-LOC")]
    assert TASK.num_labels(row) == 4
    assert first_subwords([None, 0, 0, None, 2, 2]) == [(1, 0), (4, 2)]


def test_the_loss_counts_first_subwords_alone() -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    labels = torch.tensor([[1, IGNORED, 2], [IGNORED, 0, IGNORED]])
    shares = logits.log_softmax(-1)
    expected = -torch.stack([shares[0, 0, 1] + shares[0, 2, 2], shares[1, 1, 0]])
    assert torch.allclose(TASK.loss(type("Output", (), {"logits": logits}), labels, torch.ones_like(labels)), expected)


def test_a_cut_row_loses_its_last_words(tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base("bert").tokenizer
    data = examples((["ab", "cd"], ["B-PER", "B-LOC"]))
    cut = TASK.encode(data, tokenizer, labels=TAGS, max_length=4, overlong="truncate")
    assert tokenizer.decode(cut.rows[0].input_ids) == "<s>ab</s>"
    assert (cut.rows[0].labels, cut.report.rows_cut) == ([IGNORED, 2, IGNORED, IGNORED], 1)


def test_rows_that_cannot_be_used(
    tiny_base: Callable[..., Base], rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    tokenizer = tiny_base("bert").tokenizer
    with pytest.raises(DataError, match=r"x:0: the head does not know the tag 'B-ORG'.* The tags are O, B-LOC, B-PER"):
        TASK.encode(examples((["x"], ["B-ORG"])), tokenizer, labels=TAGS, max_length=9)
    with pytest.raises(DataError, match="no word has a token in x:0"):
        TASK.encode(examples(([], [])), tokenizer, labels=TAGS, max_length=9)
    one_tag = rows([{"tokens": ["a"], "tags": ["O"]}], "one")
    with pytest.raises(DataError, match="the rows have 1 distinct tag; a classification needs two at least"):
        train({"model": base_folder("bert"), "data": one_tag, "output_dir": str(tmp_path / "never")})


def test_tags_without_names_are_told(
    rows: Make, base_folder: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = rows([{"tokens": ["Anna", "eats"], "tags": [1, 0]}])
    with caplog.at_level("WARNING", logger="petune"):
        train({"model": base_folder("bert"), "data": data, "max_steps": 1, "output_dir": str(tmp_path / "out")})
    assert "the tags are numbers, and none is known to stand for no entity" in caplog.text
