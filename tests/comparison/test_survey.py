from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import petune
from petune.comparison.recipe import CompareRecipe
from petune.comparison.split import split_rows
from petune.comparison.survey import Survey, survey
from petune.errors import ConfigError, DataError

Keys = Callable[..., dict[str, Any]]


@pytest.fixture
def look(compare_keys: Keys, tmp_path: Path) -> Callable[..., Survey]:
    """Survey the tiny base with changed keys: ``look(metric="loss")``."""

    def look(**changes: Any) -> Survey:
        options = CompareRecipe.parse(compare_keys(**changes)).options
        return survey(options.models[0], options, split_rows(options).write(tmp_path / "parts"))

    return look


def test_lengths_task_and_metric(look: Callable[..., Survey]) -> None:
    found = look()
    assert (found.task.name, found.labels, found.metric, found.has_head) == ("causal_lm", (), "accuracy", False)
    assert (len(found.train), len(found.development), len(found.test)) == (17, 2, 5)
    # One token a byte, and one for the end: "row 7\nLabel: positive" is 21 bytes.
    assert set(found.train) <= {len(f"row {i}\nLabel: positive") + 1 for i in (1, 10)}
    assert found.parameters == sum(p.numel() for p in found.model.parameters())
    assert found.model.device.type == "meta"


def test_a_head_for_classification(look: Callable[..., Survey]) -> None:
    found = look(task="sequence_classification")
    assert (found.labels, found.metric, found.has_head) == (("negative", "positive"), "accuracy", True)


def test_the_metric_of_plain_texts_is_the_loss(
    look: Callable[..., Survey], tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    data = write_rows(tmp_path / "texts.jsonl", [{"text": f"text {i}"} for i in range(24)])
    assert look(data=str(data)).metric == "loss"
    with pytest.raises(DataError, match=r"metric 'accuracy' compares label words, but the rows of .* have no labels"):
        look(data=str(data), metric="accuracy")
    with pytest.raises(DataError, match="metric 'exact_match' compares with a target"):
        look(data=str(data), metrics=["exact_match"])


def test_outlook(look: Callable[..., Survey]) -> None:
    found = look()
    lora, refused = found.outlook("lora", {"r": 2, "learning_rate": 1.0}), found.outlook("bitfit", {})
    assert lora.trainable * 2 == found.outlook("lora", {"r": 4}).trainable > 0
    assert lora.refused is None
    assert "no biases" in str(refused.refused)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metric": "acuracy"}, ConfigError, "unknown metric 'acuracy'"),
        ({"greater_is_better": False}, ConfigError, "greater_is_better is false, and of accuracy more is better"),
        ({"metrics": ["span_f1"], "task": "sequence_classification"}, ConfigError, "'span_f1' is not of the task"),
        ({"max_length": 8}, DataError, "longer than"),
        ({"task": "token_classification"}, DataError, "token_classification learns from rows of"),
    ],
)
def test_what_cannot_be_measured(
    changes: dict[str, Any], error: type[Exception], message: str, look: Callable[..., Survey]
) -> None:
    with pytest.raises(error, match=message):
        look(**changes)


def test_a_test_label_that_training_rows_lack(
    look: Callable[..., Survey], tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    test = write_rows(tmp_path / "test.jsonl", [{"text": "new", "label": "strange"}])
    with pytest.raises(DataError, match=r"that no training row has; the first is 'strange' at .* The labels are"):
        look(test_data=str(test))


@pytest.mark.parametrize("rows", [[{"text": "one", "label": "a"}], [{"prompt": "one", "completion": "two"}]])
def test_too_few_labels_are_told_with_what_a_comparison_can_do(
    rows: list[dict[str, str]], look: Callable[..., Survey], tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    key = next(iter(rows[0]))
    data = write_rows(tmp_path / "same.jsonl", [{**rows[0], key: f"row {i}"} for i in range(24)])
    with pytest.raises(DataError, match=r"have (one label, 'a'|no labels \(layout .*\)); .* such as --metric loss$"):
        look(data=str(data), metric="accuracy")


def test_a_tokenizer_is_all_it_needs(
    look: Callable[..., Survey], tiny_folder: str, tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:  # fmt: skip
    (Path(tiny_folder) / "model.safetensors").write_bytes(b"no weights")
    assert look().parameters > 0


@pytest.mark.parametrize("method", ["lora", "p_tuning"])
def test_what_is_stored_is_what_a_folder_holds(method: str, look: Callable[..., Survey], tmp_path: Path) -> None:
    found = look()
    model = petune.load(base=found.name)
    model.attach(petune.create_adapter(model.base, method))
    petune.save_adapter(model, tmp_path / "adapter")
    size = (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    outlook = found.outlook(method, {})
    assert 0 < outlook.stored <= size < outlook.stored + 4096  # the file has a header
    assert outlook.trainable * 4 >= outlook.stored


def test_room_beside_what_a_method_adds(look: Callable[..., Survey]) -> None:
    found, soft = look(), {"num_virtual_tokens": 20}
    rooms = [found.room(method, own, None) for method, own in (("lora", {}), ("prompt_tuning", soft))]
    assert rooms == [128, 108]
    assert found.room("prompt_tuning", soft, 100) == 100
    assert found.room("prompt_tuning", soft, 120) == 108
    assert found.room("prompt_tuning", {"num_virtual_tokens": 127}, None) is None
    assert found.room("bitfit", {}, None) is None, "it is refused"
    unlimited = replace(found, limit=None)
    assert (unlimited.room("lora", {}, None), unlimited.room("lora", {}, 8000)) == (128, 8000), "the tokenizer tells"
