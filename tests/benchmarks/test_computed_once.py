"""The timing of what is computed once runs both ways and compares them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import computed_once
import pytest
import torch

from petune.backbone.base import Base


def test_both_ways_are_timed(
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path / "home"))
    labels = {"good": "positive", "fine": "positive", "bright": "positive", "cold": "negative"}
    rows = [{"text": f"it was {word}", "label": label} for word, label in labels.items()]
    files = SimpleNamespace(train=write_rows(tmp_path / "train.jsonl", rows))
    ways: list[Any] = []
    train = computed_once.petune.train

    def watched(recipe: dict[str, Any], **options: Any) -> Any:
        ways.append(recipe.get("trunk_cache", recipe.get("share_prefix")))
        return train(recipe, **options)

    monkeypatch.setattr(computed_once.petune, "train", watched)
    monkeypatch.setattr(computed_once, "movie_reviews", lambda *_: files)
    monkeypatch.setattr(computed_once.petune, "load_base", lambda *_, **__: tiny_base("llama"))
    threads = str(torch.get_num_threads())
    assert computed_once.main(["--repeats", "1", "--threads", threads]) == 0
    printed = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    measured, in_line = printed[-1], printed[-6:-4]
    lines = [line for line in printed if "|".join(line).startswith(("| top", "| rev"))]
    assert [line[1].strip() for line in lines] == ["top 2 of 3", "top 1 of 3", "reviews in the chat template"]
    assert all(float(line[4]) > 0 for line in in_line)
    assert [line[1].strip() for line in in_line] == ["lora", "prompt_tuning"]
    assert measured[1].strip() == "loss and accuracy"
    assert float(measured[4]) > 0
    assert all(float(line[4]) > 0 for line in lines)
    assert lines[1][5].strip() == "2.00"
    assert ways == ["off", "1GiB", "off", "1GiB", False, True]
