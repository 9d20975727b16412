"""What a token costs, measured on a stand-in of the base."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from petune import methods
from petune.comparison import pace as measurement
from petune.comparison.pace import pace_of, stand_in
from petune.data.encoding import Encoded
from petune.tasks.registry import get as get_task
from petune.training.options import TrainingOptions

CPU = torch.device("cpu")
ROWS = [Encoded([5] * n, [-100] * (n - 1) + [5], f"row {n}") for n in (4, 9, 6, 7, 8)]


@pytest.fixture
def skeleton(tiny_model: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """Build a model of shapes alone: ``skeleton("llama")``."""
    return lambda architecture: tiny_model(architecture).to("meta")


@pytest.mark.parametrize("method", methods.names())
def test_every_method_has_a_pace(method: str, skeleton: Callable[..., PreTrainedModel]) -> None:
    base = stand_in(skeleton("gpt2" if method == "bitfit" else "llama"), CPU, torch.float32)
    pace = pace_of(base, get_task("causal_lm"), ROWS, method, {}, TrainingOptions(per_device_train_batch_size=4))
    assert pace is not None
    assert (pace.learning > 0) == (pace.updating > 0) == methods.get(method).trains
    assert min(pace.reading, pace.writing, pace.held) > 0
    assert all(parameter.grad is None for parameter in base.model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "t5"])
def test_a_stand_in_has_the_shape_and_numbers_that_are_finite(
    architecture: str, skeleton: Callable[..., PreTrainedModel]
) -> None:
    model = skeleton(architecture)
    base = stand_in(model, CPU, torch.bfloat16)
    shapes = [{name: p.shape for name, p in found.named_parameters()} for found in (base.model, model)]
    assert shapes[0].items() <= shapes[1].items()  # what is tied is there once
    assert base.dtype == torch.bfloat16
    assert all(parameter.is_meta for parameter in model.parameters())
    assert all(tensor.isfinite().all() for tensor in base.model.parameters())


def test_more_rows_hold_more(skeleton: Callable[..., PreTrainedModel]) -> None:
    held = []
    for rows in (2, 4, 16):
        base = stand_in(skeleton("llama"), CPU, torch.float32)
        options = TrainingOptions(per_device_train_batch_size=rows)
        pace = pace_of(base, get_task("causal_lm"), ROWS, "lora", {}, options)
        assert pace is not None
        held.append(pace.held)
    assert held[0] < held[1] < held[2]


def test_where_there_is_no_room_after_all_there_is_no_pace(
    skeleton: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measurement, "_measured", full)
    base = stand_in(skeleton("llama"), CPU, torch.float32)
    assert pace_of(base, get_task("causal_lm"), ROWS, "lora", {}, TrainingOptions()) is None


def test_what_starts_from_a_text_cannot_be_made_on_a_stand_in(skeleton: Callable[..., PreTrainedModel]) -> None:
    base = stand_in(skeleton("llama"), CPU, torch.float32)
    settings = {"prompt_tuning_init": "text", "prompt_tuning_init_text": "be kind"}
    assert pace_of(base, get_task("causal_lm"), ROWS, "prompt_tuning", settings, TrainingOptions()) is None
