"""A tiny comparison: a random model, two dozen reviews, one step an epoch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.comparison.recipe import CompareRecipe
from petune.comparison.split import PartFiles, split_rows


@pytest.fixture
def tiny_folder(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> str:
    """Folder of a tiny llama with its tokenizer."""
    tiny_model("llama", num_hidden_layers=1).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def compare_keys(tiny_folder: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The keys of a small comparison: ``compare_keys(methods=["lora"], seeds=[1, 2], ...)``."""
    rows = [{"text": f"row {i}", "label": "positive" if i % 2 else "negative"} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(**changes: Any) -> dict[str, Any]:
        defaults = {
            "models": [tiny_folder],
            "data": str(tmp_path / "rows.jsonl"),
            "methods": ["lora"],
            "baselines": False,
            "rate_factors": [1],
            "budget": 2,
            "budget_unit": "steps",
            "evaluations": 1,
            "forgetting": False,
            "per_device_train_batch_size": 4,
            "output_dir": str(tmp_path / "out"),
        }
        return {**defaults, **changes}

    return make


@pytest.fixture
def part_files(compare_keys: Callable[..., dict[str, Any]], tmp_path: Path) -> PartFiles:
    """The rows of the small comparison, written as its parts."""
    return split_rows(CompareRecipe.parse(compare_keys()).options).write(tmp_path / "parts")
