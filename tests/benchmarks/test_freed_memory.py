"""The timing of memory that is kept between steps."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import freed_memory
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.training import loop


@pytest.mark.parametrize("way", freed_memory.WAYS)
def test_a_way_is_measured(
    way: str,
    tmp_path: Path,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    rows = [{"text": f"it was {word}", "label": "positive"} for word in ("good", "fine", "bright", "warm")] * 4
    files = SimpleNamespace(train=write_rows(tmp_path / "train.jsonl", rows))
    usual = loop.freed_memory_kept
    monkeypatch.setattr(loop, "freed_memory_kept", usual)
    monkeypatch.setattr(freed_memory, "movie_reviews", lambda *_: files)
    found = freed_memory.measured(way, str(tmp_path / "tiny"), 2, 3)
    assert (loop.freed_memory_kept is usual) == (way == "kept")
    assert found["seconds"] > 0
    assert found["memory"] > 0


def test_the_ratio_is_of_runs_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command[command.index("--only") + 1])
        answer = {"seconds": 4.0 if ran[-1] == "given back" else 3.0, "pages": 5.0, "memory": 100.0}
        return subprocess.CompletedProcess(command, 0, stdout=f"a warning\n{json.dumps(answer)}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert freed_memory.main(["--repeats", "2"]) == 0
    assert ran == ["given back", "kept"] * 2
    assert "Kept against given back: 0.75 (0.75 to 0.75)" in capsys.readouterr().out
