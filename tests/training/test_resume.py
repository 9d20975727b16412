"""A stopped and resumed run is, bit for bit, the run that was never stopped."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from petune.backbone.base import Base
from petune.errors import CheckpointError, Interrupted, ResourceError
from petune.training import checkpoints
from petune.training.run import TrainingResult, train

WALL_CLOCK = ("tokens_per_second", "peak_memory_bytes")
# Dropout of the methods' own, and encoders, which must be in the checkpoints though the folder has none.
NOISY: dict[str, dict[str, Any]] = {
    "lora": {"lora_dropout": 0.2},
    "p_tuning": {"encoder_reparameterization_type": "LSTM", "encoder_dropout": 0.2},
    "prefix_tuning": {"prefix_projection": True, "prefix_dropout": 0.2},
}


def what_counts(result: TrainingResult) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k not in WALL_CLOCK} for entry in result.history]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items())


@pytest.mark.parametrize("stops", [[1], [4], [6], [1, 5, 7]], ids=str)
def test_resumed_run_goes_on_as_if_never_stopped(
    method: str,
    stops: list[int],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    keys: Callable[..., dict[str, Any]],
    signal_at: Callable[..., Any],
) -> None:
    def base() -> Base:  # dropout in the base itself, too
        return tiny_base("gpt2", resid_pdrop=0.1, attn_pdrop=0.1)

    options = keys(method=method, eval_data=str(tmp_path / "eval.jsonl"), save_total_limit=1)
    options |= NOISY.get(method, {})
    whole = train({**options, "output_dir": str(tmp_path / "whole")}, base=base())
    assert whole.steps == 8

    for i, stop in enumerate(stops):
        torch.manual_seed(i)  # whatever happened in between
        with pytest.raises(Interrupted, match=rf"at step {stop} of 8; saved .*checkpoint-{stop}\b.*--resume"):
            train(options, base=base(), resume=i > 0, listeners=[signal_at(stop)])
        assert not (tmp_path / "run" / "petune.json").exists()
    torch.manual_seed(99)
    resumed = train(options, base=base(), resume=True)

    assert resumed.steps == whole.steps
    assert what_counts(resumed) == what_counts(whole)
    first, second = (checkpoints.load(r.output_dir / "checkpoint-8") for r in (whole, resumed))
    assert same(first.masters, second.masters)
    assert same(first.optimizer, second.optimizer)
    assert same(first.random, second.random)
    for name in ("adapter_model.safetensors", "model.safetensors"):
        files = [r.output_dir / name for r in (whole, resumed)]
        assert files[0].exists() == files[1].exists()
        assert not files[0].exists() or files[0].read_bytes() == files[1].read_bytes()
    lines = (resumed.output_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history


def test_an_fp16_run_resumes_with_its_loss_scale(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]], signal_at: Callable[..., Any]
) -> None:
    options = keys(num_train_epochs=3)
    whole = train({**options, "output_dir": str(tmp_path / "whole")}, base=tiny_base(dtype=torch.float16))
    with pytest.raises(Interrupted):
        train(options, base=tiny_base(dtype=torch.float16), listeners=[signal_at(5)])
    resumed = train(options, base=tiny_base(dtype=torch.float16), resume=True)
    assert what_counts(resumed) == what_counts(whole)
    scales = [checkpoints.load(r.output_dir / "checkpoint-12").state["scaler"] for r in (whole, resumed)]
    assert scales[0] == scales[1] != {}


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_later(
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    keys: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = train(keys(save_steps=2, output_dir=str(tmp_path / "whole")), base=tiny_base())
    save_file = checkpoints.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "checkpoint-6" in str(path) and path.name == checkpoints.OPTIMIZER:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(ResourceError, match=r"no space left while writing .*checkpoint-6 \("):
            train(keys(save_steps=2), base=tiny_base())
    assert checkpoints.steps_in(tmp_path / "run") == [2, 4]
    assert not list((tmp_path / "run").glob(".*"))
    resumed = train(keys(save_steps=2), base=tiny_base(), resume=True)
    assert what_counts(resumed) == what_counts(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_gives_its_exit_code(
    number: int,
    code: int,
    tiny_base: Callable[..., Base],
    keys: Callable[..., dict[str, Any]],
    signal_at: Callable[..., Any],
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        train(keys(), base=tiny_base(), listeners=[signal_at(2, number)])
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_resuming_a_finished_run_changes_nothing(
    tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    first = train(keys(), base=tiny_base())
    weights = (first.output_dir / "adapter_model.safetensors").read_bytes()
    second = train(keys(), base=tiny_base(), resume=True)
    assert second.steps == first.steps == 8
    assert what_counts(second) == what_counts(first)
    assert (second.output_dir / "adapter_model.safetensors").read_bytes() == weights


def test_a_run_that_stopped_early_stays_stopped(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    options = keys(eval_data=str(tmp_path / "eval.jsonl"), eval_steps=1, early_stopping_patience=2, learning_rate=1e-30)
    first = train(options, base=tiny_base())
    assert first.steps == 3  # the first evaluation is the best, two do not improve on it
    second = train(options, base=tiny_base(), resume=True)
    assert second.steps == first.steps
    assert what_counts(second) == what_counts(first)


def test_other_settings_are_refused_by_name(
    tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]], signal_at: Callable[..., Any]
) -> None:
    with pytest.raises(Interrupted):
        train(keys(), base=tiny_base(), listeners=[signal_at(2)])
    with pytest.raises(CheckpointError, match=r"other settings: learning_rate is 0\.5, was 0\.01; r is 4, was 8\."):
        train(keys(learning_rate=0.5, r=4), base=tiny_base(), resume=True)
    # What changes no number may change.
    assert train(keys(save_total_limit=5, run_name="again"), base=tiny_base(), resume=True).steps == 8


def test_other_rows_are_refused(
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    keys: Callable[..., dict[str, Any]],
    rows: list[dict[str, str]],
    write_rows: Callable[..., Path],
    signal_at: Callable[..., Any],
) -> None:
    with pytest.raises(Interrupted):
        train(keys(), base=tiny_base(), listeners=[signal_at(2)])
    for other in (rows[:-4], [{**row, "completion": "other"} for row in rows]):
        write_rows(tmp_path / "train.jsonl", other)
        with pytest.raises(
            CheckpointError, match=r"step 2 was made with other rows than those that .*train\.jsonl holds"
        ):
            train(keys(), base=tiny_base(), resume=True)


def test_other_validation_rows_and_another_base_are_refused(
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    keys: Callable[..., dict[str, Any]],
    write_rows: Callable[..., Path],
    signal_at: Callable[..., Any],
) -> None:
    options = keys(eval_data=str(tmp_path / "eval.jsonl"), eval_steps=1)
    with pytest.raises(Interrupted):
        train(options, base=tiny_base(), listeners=[signal_at(2)])
    with pytest.raises(CheckpointError, match=r"step 2 was made on another base than 'tiny-llama' is now"):
        train(options, base=tiny_base(rms_norm_eps=0.5), resume=True)
    # Losses on other rows cannot tell the best step: that of a few easy ones would stay the best for ever.
    write_rows(tmp_path / "eval.jsonl", [{"prompt": "mauve is", "completion": " something else"}])
    with pytest.raises(CheckpointError, match=r"step 2 was made with other validation rows than those that .*eval\.js"):
        train(options, base=tiny_base(), resume=True)


def test_nothing_to_resume(tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(CheckpointError, match=r"run holds no checkpoint to resume from; start anew"):
        train(keys(), base=tiny_base(), resume=True)


def test_damaged_newest_checkpoint_names_a_sound_older_one(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]], signal_at: Callable[..., Any]
) -> None:
    with pytest.raises(Interrupted):
        train(keys(save_steps=2), base=tiny_base(), listeners=[signal_at(7)])
    damaged = tmp_path / "run" / "checkpoint-7" / checkpoints.OPTIMIZER
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"optimizer\.safetensors is damaged \(SHA-256.*checkpoint-6 is sound: remove .*-7"
    ):
        train(keys(save_steps=2), base=tiny_base(), resume=True)
    shutil.rmtree(damaged.parent)
    assert train(keys(save_steps=2), base=tiny_base(), resume=True).steps == 8
