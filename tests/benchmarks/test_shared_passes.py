"""The timing of comparisons with and without shared passes runs both ways and compares them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shared_passes
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def test_both_ways_are_run(
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"text": f"it was {i}", "label": "positive" if i % 2 else "negative"} for i in range(60)]
    files = SimpleNamespace(
        train=write_rows(tmp_path / "train.jsonl", rows[:50]), test=write_rows(tmp_path / "test.jsonl", rows[50:])
    )
    ways: list[bool] = []
    compare = shared_passes.petune.compare

    def watched(keys: dict[str, Any], **options: Any) -> Any:
        ways.append(keys["share_passes"])
        assert keys["engine"] == "inline", "the memory told is this process's"
        return compare({**keys, "models": [str(tmp_path / "tiny")]}, **options)

    monkeypatch.setattr(shared_passes.petune, "compare", watched)
    monkeypatch.setattr(shared_passes, "movie_reviews", lambda *_: files)
    monkeypatch.setattr(shared_passes, "METHODS", ("lora",))
    monkeypatch.setattr(shared_passes.torch, "set_num_threads", lambda threads: None)
    arguments = ["--rows", "2", "--steps", "3", "--repeats", "1", "--dtype", "float32"]
    assert shared_passes.main(arguments) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| 2 rows")]
    assert [line[1].split(", ", 1)[1].strip() for line in lines] == [
        "training, s", "whole search, s", "peak memory, MiB", "distance of losses",
    ]  # fmt: skip
    assert float(lines[3][2]) < 1e-4
    assert ways == [True, False]
