"""Adapters that train together: each as if it were alone, in less time."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter
from petune.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    Interrupted,
    OutputFolderError,
    ResourceError,
)
from petune.sites.head import LabelLoss
from petune.training import adapter_run, checkpoints, one_pass
from petune.training.adapter_run import AdapterRun
from petune.training.loop import Loop
from petune.training.recipe import Recipe
from petune.training.run import train
from petune.training.run_many import train_many

WALL_CLOCK = ("tokens_per_second", "peak_memory_bytes")

DIFFERENT: dict[str, dict[str, Any]] = {
    "low": {"method": "lora", "r": 3, "learning_rate": 2e-2},
    "wide": {"method": "lora", "r": 5, "target_modules": "attention", "seed": 7, "num_train_epochs": 1},
    "prefix": {"method": "prefix_tuning", "num_virtual_tokens": 3, "per_device_train_batch_size": 1},
    "prompt": {
        "method": "prompt_tuning",
        "num_virtual_tokens": 4,
        "gradient_accumulation_steps": 3,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "cosine",
    },
    "neck": {"method": "bottleneck", "bottleneck_size": 4, "tokens_per_step": 40, "max_grad_norm": 0.1},
}
"""Methods, rates, schedules, seeds, sizes of steps and numbers of steps."""


@pytest.fixture
def several(tmp_path: Path, keys: Callable[..., dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """The recipes of ``several(place, names, **changes)``, each with a folder in ``place``."""

    def make(place: str, names: Sequence[str] = tuple(DIFFERENT), **changes: Any) -> list[dict[str, Any]]:
        return [keys(**{"output_dir": str(tmp_path / place / n), **DIFFERENT[n], **changes}) for n in names]

    return make


def what_counts(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k not in WALL_CLOCK} for entry in history]


def close(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for ours, theirs in zip(what_counts(first), what_counts(second), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_each_adapter_learns_what_it_learns_alone(
    tmp_path: Path, tiny_base: Callable[..., Base], several: Callable[..., Any]
) -> None:
    evaluated = {"eval_data": str(tmp_path / "eval.jsonl"), "metrics": ["accuracy"], "metric_for_best_model": "loss"}
    evaluated["metrics"] = ["perplexity"]
    outcomes = train_many(several("together", **evaluated), base=tiny_base())
    assert [outcome.name for outcome in outcomes] == list(DIFFERENT)
    steps = []
    for outcome, recipe in zip(outcomes, several("apart", **evaluated), strict=True):
        assert outcome.error is None
        assert outcome.result is not None
        alone = train(recipe, base=tiny_base())
        close(outcome.result.history, alone.history)
        steps.append(alone.steps)
        ours, theirs = (r.model.adapter(r.adapter_name).tensors() for r in (outcome.result, alone))
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)
        folders = [{path.name for path in r.output_dir.iterdir()} for r in (outcome.result, alone)]
        assert folders[0] == folders[1]
        assert (outcome.result.kept_step, outcome.result.train_report) == (alone.kept_step, alone.train_report)
    assert len(set(steps)) >= 4
