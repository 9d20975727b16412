"""What tasks with a head of their own share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from petune import api
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import DataError
from petune.training.run import train

Make = Callable[..., str]
TASKS = {
    "sequence_classification": ("reviews", ("neg", "pos")),
    "token_classification": ("entities", ("B-LOC", "B-PER", "O")),
    "question_answering": ("questions", ()),
}
"""Rows and labels."""


@pytest.mark.parametrize("method", [None, "lora", "prefix_tuning"])
@pytest.mark.parametrize("task", TASKS)
def test_loss_and_answers_come_from_the_same_passes(
    task: str, method: str | None, rows: Make, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    what, labels = TASKS[task]
    base = tiny_base("bert", task=task, labels=labels)
    model, data = AdaptedModel(base, [randomise(create_adapter(base, method))] if method else []), rows(what)
    ran: list[int] = []
    handle = base.model.register_forward_pre_hook(lambda m, a, k: ran.append(len(k["input_ids"])), with_kwargs=True)
    measured = api.evaluate(model, data)
    assert sum(ran) == measured.num_rows
    ran.clear()
    loss = api.evaluate(model, data, metrics=("loss",))
    answers = api.predict(model, data)
    assert sum(ran) == 2 * measured.num_rows
    handle.remove()
    assert measured.metrics["loss"] == pytest.approx(loss.metrics["loss"], abs=1e-5)
    assert len(measured.row_losses) == measured.num_rows
    assert measured.row_losses == pytest.approx(loss.row_losses, abs=1e-5)
    assert [p.prediction for p in measured.predictions] == [p.prediction for p in answers]
    assert [p.details for p in measured.predictions] == [p.details for p in answers]
    assert [p.origin for p in measured.predictions] == [p.origin for p in answers]


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_no_pass_keeps_keys_and_values(
    architecture: str, rows: Make, tiny_base: Callable[..., Base], tmp_path: Path
) -> None:
    what, labels = TASKS["sequence_classification"]
    base, data = tiny_base(architecture, task="sequence_classification", labels=labels), rows(what)
    kept: list[object] = []
    handle = base.model.register_forward_hook(lambda m, a, output: kept.append(output.get("past_key_values")))
    result = train({"data": data, "output_dir": str(tmp_path / "out"), "max_steps": 2}, base=base)
    trained = len(kept)
    api.evaluate(result.model, data)
    handle.remove()
    assert trained >= 2
    assert len(kept) > trained
    assert kept == [None] * len(kept)


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
def test_rows_are_answered_as_long_as_the_model_has_positions(
    task: str, rows: Make, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base("bert", task=task, labels=("a", "b"))
    base.tokenizer.model_max_length = 16  # how long rows to learn from are by default
    model = AdaptedModel(base)

    def row(words: int) -> dict[str, object]:
        own = {"text": "x " * words, "label": "a"}
        return own if task == "sequence_classification" else {"tokens": ["x"] * words, "tags": ["a"] * words}

    data = rows([row(5), row(20)])
    with pytest.raises(DataError, match=r"1 of 2 rows are longer than 16 tokens.*choose --max-length"):
        api.evaluate(model, data)
    measured = api.evaluate(model, data, max_length=100)
    assert measured.num_rows == len(measured.row_losses) == 2
    assert [p.prediction for p in measured.predictions] == [p.prediction for p in api.predict(model, data)]
    with pytest.raises(DataError, match=r"1 of 1 rows are longer than the model's 512 tokens: .*:1 \(1,\d+\); "):
        api.predict(model, rows([row(600)]))


@pytest.mark.parametrize("task", [task for task in TASKS if task != "question_answering"])  # reads windows, not cut
def test_rows_that_were_cut_have_a_loss(task: str, rows: Make, tiny_base: Callable[..., Base]) -> None:
    what, labels = TASKS[task]
    model, data = AdaptedModel(tiny_base("bert", task=task, labels=labels)), rows(what)
    cut = {"max_length": 4, "overlong": "truncate"}
    measured = api.evaluate(model, data, metrics=("loss",), **cut)
    assert list(measured.metrics) == ["loss"]
    assert measured.num_rows == len(measured.row_losses) == len(Path(data).read_text().splitlines())
    with pytest.raises(
        DataError, match="no rows to measure; every row was cut, and whole ones are compared; raise --m"
    ):
        api.evaluate(model, data, **cut)
