"""What a token costs, measured on a stand-in of the base."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune import methods
from petune.backbone.packed_weight import is_packed
from petune.backbone.quantization import Kept
from petune.backbone.quantization_names import Quantization
from petune.backbone.sources import Source
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


@pytest.mark.parametrize("method", ["lora", "full", "p_tuning_v2"])
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantised_base_is_measured_as_one(
    method: str, quantization: Quantization, tiny_model: Callable[..., PreTrainedModel]
) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=64).to("meta")
    kept = Kept(quantization, Source("tiny", "tiny", None))
    base = stand_in(model, CPU, torch.float32, kept=kept)
    packed = {name for name, parameter in base.model.named_parameters() if is_packed(parameter)}
    assert packed == {f"{linear.path}.weight" for linear in base.structure.linears if linear.role != "head"}
    pace = pace_of(base, get_task("causal_lm"), ROWS, method, {}, TrainingOptions())
    assert pace is not None
    assert min(pace.learning, pace.reading, pace.writing, pace.held) > 0


def test_what_is_computed_again_is_measured_so(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama", num_hidden_layers=6).to("meta")

    def held(**options: Any) -> int:
        asked = TrainingOptions(per_device_train_batch_size=4, **options)
        pace = pace_of(stand_in(model, CPU, torch.float32), get_task("causal_lm"), ROWS, "lora", {}, asked)
        assert pace is not None
        return pace.held

    plain, again = held(), held(gradient_checkpointing=True)
    assert 0 < again < plain
    assert again > plain / 6, "one block at a time stands there again"


def test_where_there_is_no_room_after_all_there_is_no_pace(
    skeleton: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measurement, "_measured", full)
    base = stand_in(skeleton("llama"), CPU, torch.float32)
    assert pace_of(base, get_task("causal_lm"), ROWS, "lora", {}, TrainingOptions()) is None


def test_without_a_temporary_folder_there_is_no_pace(
    skeleton: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    base = stand_in(skeleton("llama"), CPU, torch.float32)
    assert pace_of(base, get_task("causal_lm"), ROWS, "lora", {}, TrainingOptions()) is None
    assert pace_of(base, get_task("causal_lm"), ROWS, "hard_prompts", {}, TrainingOptions()) is not None


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("prompt_tuning", {"prompt_tuning_init": "text", "prompt_tuning_init_text": "be kind"}),
        ("prompt_tuning", {"placement": "append"}),
        ("prefix_tuning", {"prefix_init": "text", "prefix_init_text": "be kind"}),
        ("lora", {"new_tokens": ["colour", "flavour"]}),
    ],
)
def test_a_base_with_its_tokenizer_has_a_pace_of_what_reads_texts(
    method: str,
    settings: dict[str, Any],
    skeleton: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    words = len(tiny_tokenizer)
    base = stand_in(skeleton("llama"), CPU, torch.float32, tiny_tokenizer)
    pace = pace_of(base, get_task("causal_lm"), ROWS, method, settings, TrainingOptions())
    assert pace is not None
    assert min(pace.learning, pace.reading, pace.writing) > 0
    assert len(tiny_tokenizer) == words


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning", "p_tuning_v2"])
def test_an_encoder_has_a_pace_without_writing(method: str, tiny_model: Callable[..., PreTrainedModel]) -> None:
    task = get_task("token_classification")
    model = tiny_model("bert", task="token_classification", labels=("a", "b")).to("meta")
    rows = [Encoded([5] * n, [1] * n, f"row {n}") for n in (4, 9, 6, 7, 8)]
    pace = pace_of(stand_in(model, CPU, torch.float32), task, rows, method, {}, TrainingOptions())
    assert pace is not None
    assert min(pace.learning, pace.reading) > 0
    assert pace.writing == 0


def test_an_encoder_decoder_has_a_pace_of_writing(skeleton: Callable[..., PreTrainedModel]) -> None:
    rows = [Encoded([5] * n, [5, 6], f"row {n}") for n in (4, 9, 6, 7, 8)]
    pace = pace_of(
        stand_in(skeleton("t5"), CPU, torch.float32), get_task("seq2seq_lm"), rows, "lora", {}, TrainingOptions()
    )
    assert pace is not None
    assert pace.writing > 0


def test_without_a_tokenizer_what_starts_from_a_text_has_no_pace(skeleton: Callable[..., PreTrainedModel]) -> None:
    base = stand_in(skeleton("llama"), CPU, torch.float32)
    settings = {"prompt_tuning_init": "text", "prompt_tuning_init_text": "be kind"}
    assert pace_of(base, get_task("causal_lm"), ROWS, "prompt_tuning", settings, TrainingOptions()) is None
