"""`petune train` with a recipe of several adapters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from petune.cli import main as command_line
from petune.sites.head import LabelLoss
from petune.sites.routing import Routing

RECIPE: dict[str, Any] = {
    "model": "tiny",
    "data": "rows.jsonl",
    "output_dir": "out",
    "max_steps": 2,
    "adapters": {"small": {"r": 2}, "soft": {"method": "prompt_tuning", "num_virtual_tokens": 3, "max_steps": 3}},
}


@pytest.fixture
def recipe(folder: Path) -> str:
    """The file of a recipe of two adapters, in the current folder."""
    Path("two.yaml").write_text(yaml.safe_dump(RECIPE))
    return "two.yaml"


def test_each_adapter_gets_its_folder(recipe: str, petune: Callable[..., str], capsys: Any) -> None:
    assert command_line.run(["train", recipe]) == 0
    captured = capsys.readouterr()
    for name, steps in (("small", 2), ("soft", 3)):
        assert f"{name}:\n" in captured.out
        assert f"adapter: out/{name}\n" in captured.out
        assert f"{name}: trainable params: " in captured.err
        assert f"{name}: step {steps}/{steps}  loss " in captured.err
        assert json.loads(Path("out", name, "train_results.json").read_text())["steps"] == steps
    assert petune("generate", "--adapter", "out/soft", "--prompt", "row", "--max-new-tokens", "2")
    assert command_line.run(["train", recipe]) == 2
    assert "out holds a run already (recipe.yaml, ...): go on with --resume" in capsys.readouterr().err
    petune("train", recipe, "--overwrite", "--max-steps", "1")
    assert json.loads(Path("out/soft/train_results.json").read_text())["steps"] == 1


def test_flags_hold_for_every_adapter(recipe: str, petune: Callable[..., str]) -> None:
    text = petune("train", recipe, "--seed", "7", "--output-dir", "elsewhere", "max_steps=5", "--dry-run")
    keys = yaml.safe_load(text)
    assert (keys["seed"], keys["max_steps"], keys["output_dir"]) == (7, 5, "elsewhere")
    assert "output_dir" not in keys["adapters"]["small"]
    assert keys["adapters"]["small"]["r"] == 2
    assert not Path("elsewhere").exists()
    Path("resolved.yaml").write_text(text)
    assert petune("train", "resolved.yaml", "--dry-run") == text


def test_another_spelling_overrides_an_adapter_s_own(folder: Path, petune: Callable[..., str]) -> None:
    Path("one.yaml").write_text(yaml.safe_dump({**RECIPE, "lora_r": 8, "adapters": {"a": {}}}))
    assert yaml.safe_load(petune("train", "one.yaml", "r=4", "--dry-run"))["r"] == 4


def test_resuming_needs_the_folder_alone(recipe: str, petune: Callable[..., str]) -> None:
    petune("train", recipe)
    before = Path("out/soft/adapter_model.safetensors").read_bytes()
    for name in ("adapter_model.safetensors", "petune.json"):
        Path("out/soft", name).unlink()
    petune("train", "--resume", "--output-dir", "out")
    assert Path("out/soft/adapter_model.safetensors").read_bytes() == before
    petune("train", "--resume", "--output-dir", "out/soft")


def test_a_nan_of_one_is_its_exit_code(
    recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LabelLoss.__call__

    def spoilt(this: Any, *arguments: Any) -> torch.Tensor:
        losses = original(this, *arguments)
        rows = [group.rows for group in Routing.of(this._model).route.groups if group.stack == ("soft",)]
        return losses.index_fill(0, rows[0], float("nan")) if rows and rows[0] is not None else losses

    monkeypatch.setattr(LabelLoss, "__call__", spoilt)
    assert command_line.run(["train", recipe]) == 5
    captured = capsys.readouterr()
    assert "adapter: out/small\n" in captured.out
    assert "petune: error: 1 of 2 adapters failed. soft: the loss is nan at step 1, in rows " in captured.err
    assert Path("out/small/petune.json").exists()
    assert not Path("out/soft/petune.json").exists()


def test_bad_input_names_the_adapter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(yaml.safe_dump({**RECIPE, "adapters": {"a": {}, "b": {"rr": 2}}}))
    assert command_line.run(["train", "bad.yaml"]) == 2
    assert "petune: error: adapters: b: unknown key 'rr' for method lora. Did you mean 'r'?" in capsys.readouterr().err


def test_the_folder_may_be_moved(recipe: str, petune: Callable[..., str]) -> None:
    petune("train", recipe)
    Path("out").rename("moved")
    for name in ("adapter_model.safetensors", "petune.json"):
        Path("moved/soft", name).unlink()
    petune("train", "--resume", "--output-dir", "moved")
    assert Path("moved/soft/adapter_model.safetensors").is_file()
    assert not Path("out").exists()
