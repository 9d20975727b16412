"""Which task a run is for."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from petune.api import load
from petune.backbone.task_names import TASK_NAMES
from petune.errors import BaseModelError, ConfigError, DataError
from petune.tasks.registry import TASKS, for_rows
from petune.training.run import train

Make = Callable[..., str]


@pytest.mark.parametrize(
    ("model_type", "layout", "task"),
    [
        ("llama", "text-label", "causal_lm"),
        ("llama", "question-answer", "causal_lm"),
        ("t5", "text-label", "seq2seq_lm"),
        ("bert", "text-label", "sequence_classification"),
        ("bert", "template", "sequence_classification"),
        ("bert", "tokens-tags", "token_classification"),
        ("bert", "question-answer", "question_answering"),
    ],
)
def test_the_task_of_rows(model_type: str, layout: str, task: str) -> None:
    assert for_rows(AutoConfig.for_model(model_type), layout, "it") is TASKS[task]


def test_rows_that_a_model_learns_nothing_from() -> None:
    with pytest.raises(
        ConfigError, match=r"it \(bert\) learns nothing from rows of messages; .*\(rows of text-label, t"
    ):
        for_rows(AutoConfig.for_model("bert"), "messages", "it")


def test_every_task_can_be_trained() -> None:
    assert tuple(TASKS) == TASK_NAMES
    assert [TASKS[name].name for name in TASKS] == list(TASKS)


def test_a_wrong_layout_for_a_task(rows: Make, base_folder: Make, tmp_path: Path) -> None:
    recipe = {"model": base_folder("bert"), "data": rows("reviews"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(
        DataError, match="token_classification learns from rows of tokens-tags; these are of text-label"
    ):
        train({**recipe, "task": "token_classification"})
    assert not (tmp_path / "out").exists()


def test_a_base_of_another_task(rows: Make, base_folder: Make, tmp_path: Path) -> None:
    base = load(base=base_folder("bert"), task="masked_lm").base
    recipe = {"data": rows("reviews"), "output_dir": str(tmp_path / "out"), "task": "sequence_classification"}
    with pytest.raises(ConfigError, match="the task is sequence_classification, but the base was loaded for masked_lm"):
        train(recipe, base=base)


def test_what_cannot_be_is_told_before_the_weights_load(rows: Make, base_folder: Make, tmp_path: Path) -> None:
    folder = base_folder("gptj")
    (Path(folder) / "model.safetensors").write_bytes(b"no weights")
    recipe = {"model": folder, "data": rows("reviews"), "output_dir": str(tmp_path / "out"), "method": "prefix_tuning"}
    with pytest.raises(BaseModelError, match="methods that change outputs or weights work"):
        train(recipe)
