"""The loop: what it goes by, and what not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from petune import api
from petune.backbone.base import Base
from petune.training.run import train


@pytest.fixture
def _fresh_accelerate() -> Iterator[None]:
    """Nothing set up in accelerate, before and after."""
    _reset()
    yield
    _reset()


def _reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.usefixtures("_fresh_accelerate")
@pytest.mark.parametrize("left_behind", ["mixed precision", "accumulation"])
def test_it_goes_by_the_recipe_and_not_by_what_another_trainer_left_in_the_process(
    left_behind: str,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    keys: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = train(keys(max_steps=2, output_dir=str(tmp_path / "plain")), base=tiny_base())
    _reset()
    if left_behind == "accumulation":
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    else:
        Accelerator(mixed_precision="bf16", cpu=True)  # as the Trainer of transformers makes one
    result = train(keys(max_steps=2), base=tiny_base())
    told = [{k: entry[k] for k in ("loss", "grad_norm")} for entry in result.history]
    assert told == [{k: entry[k] for k in ("loss", "grad_norm")} for entry in plain.history]
    assert "forward" not in vars(result.model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_measurement_in_a_run_is_the_one_after_it(
    dtype: torch.dtype, tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    data = str(tmp_path / "eval.jsonl")
    result = train(keys(eval_data=data), base=tiny_base("gemma2", dtype=dtype))
    after = api.evaluate(result.model, data, metrics=("loss",)).metrics["loss"]
    assert [entry["eval_loss"] for entry in result.history if "eval_loss" in entry][-1] == after
