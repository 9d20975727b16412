import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from petune import methods
from petune.cli import main as command_line
from petune.methods.config import fields_of

TRAIN = ("train", "--model", "tiny", "--data", "rows.jsonl", "--output-dir", "out")


def dry_run(petune: Callable[..., str], *arguments: str) -> dict[str, object]:
    keys: dict[str, object] = yaml.safe_load(petune("train", *arguments, "--dry-run"))
    return keys


def test_training_reports_data_progress_and_result(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.run([*TRAIN, "--max-steps", "2", "--validation-split", "2", "--metrics", "accuracy"]) == 0
    captured = capsys.readouterr()
    assert "6 read, 6 kept" in captured.out
    assert "validation rows:\n" in captured.out
    assert "2 read, 2 kept" in captured.out
    assert "adapter: out\n" in captured.out
    assert 'petune generate --adapter out --prompt "..."' in captured.out
    assert "accuracy  " in captured.out
    assert "trainable params: " in captured.err
    assert "step 2/2  loss " in captured.err
    assert "estimate" not in captured.err + captured.out, "what it costs is too much for two steps"
    assert {"adapter_model.safetensors", "petune.json", "loss.png", "metrics.jsonl", "recipe.yaml"} <= {
        path.name for path in Path("out").iterdir()
    }


def test_a_longer_run_is_estimated_and_a_few_seconds_alarm_nobody(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.run([*TRAIN, "--max-steps", "200", "--save-steps", "200"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"estimate: about .* for 200 steps, .* at most \(.* above the loaded model", captured.err)
    assert re.search(r"estimated time .*, measured .*; memory .*, measured ", captured.out)
    assert "warning" not in captured.out


def test_flags_override_the_recipe(petune: Callable[..., str]) -> None:
    Path("recipe.yaml").write_text("model: tiny\ndata: rows.jsonl\nr: 2\nlearning_rate: 0.5\nseed: 7\n")
    keys = dry_run(petune, "recipe.yaml", "--learning-rate", "0.25", "r=4", "target_modules=q_proj,v_proj")
    assert (keys["learning_rate"], keys["r"], keys["seed"]) == (0.25, 4, 7)
    assert keys["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize("spelling", [["r=4"], ["--r", "4"], ["--r=4"], ["lora_r=4"]])
def test_settings_of_the_method_have_three_spellings(spelling: list[str], petune: Callable[..., str]) -> None:
    assert dry_run(petune, "--data", "rows.jsonl", *spelling)["r"] == 4


def test_another_spelling_overrides_the_recipe_too(petune: Callable[..., str]) -> None:
    Path("recipe.yaml").write_text("data: rows.jsonl\nr: 2\n")
    assert dry_run(petune, "recipe.yaml", "lora_r=4")["r"] == 4
    Path("recipe.yaml").write_text("data: rows.jsonl\nlora_r: 2\n")
    assert dry_run(petune, "recipe.yaml", "--r", "4")["r"] == 4


def test_switches_of_the_method(petune: Callable[..., str]) -> None:
    Path("recipe.yaml").write_text("data: rows.jsonl\nuse_rslora: true\n")
    assert dry_run(petune, "--use-rslora", "--seed", "3")["use_rslora"] is True
    assert dry_run(petune, "recipe.yaml")["use_rslora"] is True
    assert dry_run(petune, "recipe.yaml", "--no-use-rslora")["use_rslora"] is False


def test_help_lists_the_settings_of_the_method(petune: Callable[..., str]) -> None:
    Path("recipe.yaml").write_text("method: prompt_tuning\n")
    for arguments, name in (
        ([], "lora"),
        (["--method", "bottleneck"], "bottleneck"),
        (["method=full"], "full"),
        (["recipe.yaml"], "prompt_tuning"),
        (["recipe.yaml", "--method=lora"], "lora"),
    ):
        method = methods.get(name)
        _, _, settings = petune("train", *arguments, "--help").partition(f"Settings of method {name} (learning rate ")
        assert settings.startswith(f"{method.learning_rate:g} unless given):\n")
        lines = [line.split()[0] for line in settings.splitlines() if line.startswith("  ") and "=" in line.split()[0]]
        assert [line.partition("=")[0] for line in lines] == list(fields_of(method.config_class))
    assert command_line.run(["train", "--method", "lorra", "--help"]) == 2


def test_a_dry_run_writes_nothing_and_can_be_run(petune: Callable[..., str]) -> None:
    text = petune(*TRAIN, "--max-steps", "1", "--dry-run")
    assert not Path("out").exists()
    Path("recipe.yaml").write_text(text)
    petune("train", "recipe.yaml")
    assert yaml.safe_load(Path("out/recipe.yaml").read_text()) == yaml.safe_load(text)


def test_resuming_needs_the_folder_alone(petune: Callable[..., str]) -> None:
    petune(*TRAIN, "--max-steps", "2", "--save-steps", "1", "--save-total-limit", "2")
    whole = Path("out/adapter_model.safetensors").read_bytes()
    for name in ("adapter_model.safetensors", "petune.json"):
        Path("out", name).unlink()
    for path in Path("out/checkpoint-2").iterdir():
        path.unlink()
    Path("out/checkpoint-2").rmdir()
    petune("train", "--resume", "--output-dir", "out")
    assert Path("out/adapter_model.safetensors").read_bytes() == whole


def test_overwriting_replaces_the_run(petune: Callable[..., str], adapter: str) -> None:
    petune(*TRAIN, "--max-steps", "3", "--overwrite")
    assert json.loads(Path("out/train_results.json").read_text())["steps"] == 3


def test_several_tasks_from_flags_to_an_answer(petune: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("words.jsonl").write_text(
        "".join(f'{{"tokens": ["row", "{i}"], "tags": ["O", "{"B-X" if i % 2 else "O"}"]}}\n' for i in range(6))
    )
    tasks = [
        {"name": "side", "task": "sequence_classification", "data": "rows.jsonl", "validation_split": 2, "weight": 2},
        {"name": "words", "task": "token_classification", "data": "words.jsonl", "weight": 1},
    ]
    told = petune(
        "train", "--model", "tiny", "--tasks", json.dumps(tasks), "--output-dir", "out", "--max-steps", "3",
    )  # fmt: skip
    assert "task:    side\n" in told
    assert "task:    words\n" in told
    assert "side/loss  " in told
    assert "use it:  petune predict --adapter out --task-name side|words --data rows.jsonl\n" in told
    metrics = petune("eval", "--adapter", "out", "--task-name", "words", "--data", "words.jsonl")
    assert "tag_accuracy" in metrics
    (first, *_) = petune("predict", "--adapter", "out", "--task-name", "side", "--data", "rows.jsonl").splitlines()
    assert json.loads(first)["prediction"] in ("positive", "negative")
    assert command_line.run(["eval", "--adapter", "out", "--data", "words.jsonl"]) == 2
    assert "out was trained for side, words; say with task_name (--task-name)" in capsys.readouterr().err
    petune("merge", "--adapter", "out", "--task-name", "words", "--output-dir", "merged")
    assert "tag_accuracy" in petune("eval", "--model", "merged", "--data", "words.jsonl")


def test_there_must_be_a_run_to_go_on_with(petune: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    for command, what in (("train", "run"), ("compare", "comparison")):
        assert command_line.run([command, "--resume", "--output-dir", "typo"]) == 2
        assert f"typo holds no {what} to go on with (recipe.yaml is missing there)" in capsys.readouterr().err
    assert not Path("typo").exists()


def test_folders_may_lie_at_home_and_have_blanks(
    petune: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("own.yaml").write_text(yaml.safe_dump({"output_dir": "~/my runs"}))
    printed = petune(*TRAIN[:5], "own.yaml", "--max-steps", "1")
    assert f"petune generate --adapter '{tmp_path}/my runs' --prompt" in printed
    assert (tmp_path / "my runs" / "recipe.yaml").is_file()
