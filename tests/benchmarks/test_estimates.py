"""The command that holds estimates against runs does so, in fresh processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import estimates
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.errors import ConfigError


def test_runs_are_held_against_their_estimates(
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    write_rows: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"text": f"it was {word}", "label": "positive"} for word in ("good", "fine", "bright", "warm")]
    data, output = write_rows(tmp_path / "train.jsonl", rows), tmp_path / "found.json"
    arguments = ["--model", str(tmp_path / "tiny"), "--data", str(data), "--output", str(output), "--threads", "1"]
    estimates.main([*arguments, "--methods", "lora", "--batch-sizes", "2", "--max-steps", "3", "--no-budgets"])
    (found,) = json.loads(output.read_text())["runs"]
    assert (found["method"], found["rows"], found["estimate"]["steps"]) == ("lora", 2, 3)
    assert found["peak"] > found["model"] > 0
    assert f"| lora | 2 | {found['seconds']:.1f} |" in capsys.readouterr().out


def test_a_budget_that_is_refused_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(recipe: dict[str, Any], **_: Any) -> None:
        raise ConfigError("the least is 2 GiB")

    monkeypatch.setattr("petune.train", train)
    task = {"method": "full", "per_device_train_batch_size": 4, "report": str(tmp_path / "report.json")}
    with pytest.raises(ConfigError):
        estimates.run(dict(task), "tiny")
    assert estimates.run({**task, "memory_budget": "1GiB"}, "tiny") == 0
    found = {**json.loads((tmp_path / "report.json").read_text()), "budget": 2**30}
    assert estimates.holds(found)
    assert estimates.line(found) == "| full, budget 1,024 MiB | 4 | refused: the least is 2 GiB |"


def test_what_holds() -> None:
    run: dict[str, Any] = {"method": "lora", "rows": 4, "seconds": 10.0, "peak": 100, "model": 60}
    guess = {"seconds": 11.0, "memory_bytes": 90, "recomputed": "all of 2 blocks"}
    assert estimates.errors({**run, "estimate": guess}) == pytest.approx((0.1, -0.1))
    assert estimates.holds({**run, "estimate": guess})
    assert not estimates.holds({**run, "estimate": {**guess, "seconds": 12.0}})
    assert estimates.holds({**run, "estimate": guess, "budget": 100})
    assert not estimates.holds({**run, "estimate": guess, "budget": 99})
    assert "| lora, budget 0 MiB | 4 | 10.0 | 11.0 | +10% |" in estimates.line({**run, "estimate": guess, "budget": 99})
