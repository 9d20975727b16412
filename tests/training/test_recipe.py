"""Recipes: one flat set of keys, checked before anything loads."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from petune import methods
from petune.errors import ConfigError
from petune.training.recipe import Recipe, read_yaml


def test_keys_go_to_the_run_or_to_the_method() -> None:
    recipe = Recipe.parse({"data": "a.jsonl", "learning_rate": 0.1, "r": 4, "target_modules": ["q_proj"]})
    assert recipe.run.learning_rate == 0.1
    assert recipe.method.model_dump()["r"] == 4
    assert recipe.keys()["target_modules"] == ["q_proj"]
    assert Recipe.parse({"lora_r": 4}).method == Recipe.parse({"r": 4}).method


@pytest.mark.parametrize("method", methods.names())
def test_written_and_read_again_it_is_the_same(method: str, tmp_path: Path) -> None:
    recipe = Recipe.parse({
        "method": method, "data": "größe.jsonl", "validation_split": 0.1, "metrics": ["accuracy"],
        "columns": {"text": "review"}, "learning_rate": 1e-5, "template": "{{ a }}: \n", "max_steps": 3,
        "module_learning_rates": {"*": 1e-3},
    })  # fmt: skip
    (tmp_path / "r.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    again = Recipe.read(tmp_path / "r.yaml")
    assert again == recipe
    assert again.differences(recipe) == []
    assert Recipe.read(tmp_path / "r.yaml", {"max_steps": 7}).run.max_steps == 7


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"learning_rat": 1}, r"unknown key 'learning_rat' for method lora\. Did you mean 'learning_rate'\?"),
        ({"lora_alpa": 1}, r"unknown key 'lora_alpa' .*Did you mean 'lora_alpha'\? Its own keys are r, lora_alpha"),
        ({"method": "full", "r": 1}, r"unknown key 'r' for method full\. .*keys are trainable_parameters"),
        ({"method": "lorra"}, r"unknown method 'lorra'; .*Did you mean 'lora'"),
        ({"max_steps": 0}, "'max_steps' is 0: Input should be greater than or equal to 1"),
        ({"num_train_epochs": -1}, "'num_train_epochs' is -1"),
        ({"num_train_epochs": float("nan")}, "'num_train_epochs' is nan"),
        ({"learning_rate": "fast"}, "'learning_rate' is 'fast': Input should be a valid number"),
        ({"learning_rate": float("inf")}, "'learning_rate' is inf"),
        (
            {"lr_scheduler_type": "cos"},
            "'lr_scheduler_type' is 'cos': Input should be 'linear', 'cosine' or 'constant'",
        ),
        ({"report_to": ["tensorbord"]}, r"'report_to\.0' is 'tensorbord'"),
        ({"output_dir": ""}, "'output_dir' is ''"),
        ({"seed": -1}, "'seed' is -1"),
        (
            {"metric_for_best_model": "accuracy"},
            "^metric_for_best_model is 'accuracy', which is not measured; .*add it to",
        ),
        (
            {"eval_steps": 5, "metrics": ["accuracy"]},
            r"^without validation rows eval_steps, metrics would do nothing; give eval_data, or validation_split",
        ),
        ({"eval_data": "b", "validation_split": 0.1}, "^validation_split and eval_data are both given"),
        ({"data": "a", "lora_dropout": 2}, "'lora_dropout' is 2"),
    ],
    ids=str,
)
def test_bad_keys_are_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(keys)


def test_what_the_user_says_of_a_metric_must_not_turn_it_round() -> None:
    with pytest.raises(ConfigError, match="greater_is_better is true, and of loss less is better"):
        Recipe.parse({"greater_is_better": True})
    entries = [{"name": "a", "data": "a.jsonl", "validation_split": 0.1}, {"name": "b", "data": "b.jsonl"}]
    with pytest.raises(ConfigError, match="greater_is_better is true, and of perplexity less is better"):
        Recipe.parse({"tasks": entries, "metric_for_best_model": "a/perplexity", "greater_is_better": True})
    assert Recipe.parse({"greater_is_better": False}).run.greater_is_better is False


def test_numbers_as_yaml_writes_them(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("learning_rate: 1e-4\nnum_train_epochs: 2\nmetrics: []\n")
    assert Recipe.read(tmp_path / "r.yaml").run.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", r"r\.yaml is not YAML: "),
        (b"\xff\xfe\x00", r"r\.yaml is not YAML: "),
        (b"- a\n", r"r\.yaml must be a mapping of keys to values, such as 'model: demo'"),
        (b"", "must be a mapping"),
        (b"1: a\n", "must be a mapping"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not YAML: could not determine a constructor"),
        (b"[" * 5000, "is not YAML"),
    ],
    ids=["cut", "bytes", "list", "empty", "number", "code", "deep"],
)
def test_bad_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_yaml(tmp_path / "r.yaml")


def test_a_missing_file_offers_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "lora.yaml").touch()
    with pytest.raises(
        ConfigError, match=r"cannot read the recipe .*lor\.yaml: No such file.*Did you mean 'lora\.yaml'\?"
    ):
        Recipe.read(tmp_path / "lor.yaml")
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        Recipe.read(tmp_path)


def test_differences_leave_out_what_changes_no_number() -> None:
    recipe = Recipe.parse({"data": "a", "r": 4})
    other = Recipe.parse({"data": "b", "r": 4, "output_dir": "elsewhere", "device": "cpu", "save_steps": 9})
    assert recipe.differences(other) == ["data is 'b', was 'a'"]
    assert "r is None, was 4" in recipe.differences(Recipe.parse({"data": "a", "method": "full"}))


def test_every_key_says_what_it_means() -> None:
    for name, field in type(Recipe.parse({}).run).model_fields.items():
        assert field.description, name


def test_parsing_the_run_needs_no_torch() -> None:
    program = "import sys, petune.training.recipe; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("text", ["r: 4\nr: 16\n", "settings: {r: 4, r: 16}\n"])
def test_a_key_stands_once(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="the key 'r' stands there twice"):
        read_yaml(path)


def test_keys_may_be_taken_over_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("one: &one {r: 4, lora_alpha: 8}\nother: {<<: *one, r: 16}\n", encoding="utf-8")
    assert read_yaml(path)["other"] == {"r": 16, "lora_alpha": 8}
