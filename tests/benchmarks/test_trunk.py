"""The timing of the trunk cache runs both ways and compares them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trunk

from petune.backbone.base import Base


def test_both_ways_are_timed(
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path / "home"))
    rows = [{"text": f"it was {word}", "label": "positive"} for word in ("good", "fine", "bright", "warm")]
    files = SimpleNamespace(train=write_rows(tmp_path / "train.jsonl", rows))
    ways: list[str] = []
    train = trunk.petune.train

    def watched(recipe: dict[str, Any], **options: Any) -> Any:
        ways.append(recipe["trunk_cache"])
        return train(recipe, **options)

    monkeypatch.setattr(trunk.petune, "train", watched)
    monkeypatch.setattr(trunk, "movie_reviews", lambda *_: files)
    monkeypatch.setattr(trunk.petune, "load_base", lambda *_, **__: tiny_base("llama"))
    threads = str(torch.get_num_threads())
    assert trunk.main(["--layers", "1", "--repeats", "2", "--threads", threads]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].split("|")
    assert cells[1].strip() == "1 of 3"
    assert float(cells[4]) > 0
    assert cells[5].strip() == "2.00"
    assert ways == ["off", "1GiB", "off", "1GiB"]
