"""What transformers' Trainer sees, with HF PEFT installed and without."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils.generic import find_labels

from petune.compat.peft import (
    AdaptionPromptConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from petune.errors import ConfigError

SCRIPT = Path(__file__).parent / "scripts" / "resume.py"


def test_with_peft_it_is_one_of_peft_s(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = get_peft_model(tiny_model(), LoraConfig())
    assert isinstance(model, PeftModel)
    assert isinstance(model, peft.PeftModel)
    assert unwrap_peft_model(model) is model.get_base_model()


def test_without_peft_it_is_one_of_the_base_s_class(
    tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_model()
    model = get_peft_model(base, LoraConfig())
    monkeypatch.delitem(sys.modules, "peft")
    assert isinstance(model, PeftModel)
    assert isinstance(model, PreTrainedModel)
    assert find_labels(model.__class__) == ["labels"]


def test_the_signature_is_the_base_s(tiny_model: Callable[..., PreTrainedModel]) -> None:
    base = tiny_model()
    model = get_peft_model(base, LoraConfig())
    assert inspect.signature(model.forward) == inspect.signature(base.forward)
    assert "labels" in inspect.signature(model.forward).parameters


@pytest.mark.parametrize("installed", [True, False], ids=["with PEFT", "without PEFT"])
def test_checkpoints_resume(
    installed: bool,
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "llama")
    tiny_tokenizer.save_pretrained(tmp_path / "llama")
    text = SCRIPT.read_text(encoding="utf-8").replace("from peft import ", "from petune.compat.peft import ")
    hidden = "" if installed else 'import sys\nsys.modules["peft"] = None\n'
    (tmp_path / "script.py").write_text(hidden + text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "missing keys" not in done.stdout + done.stderr
    checkpoint = {path.name for path in (tmp_path / "run" / "checkpoint-12").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "petune.json"} <= checkpoint
    assert ("model.safetensors" in checkpoint) is not installed


def test_a_resumed_run_goes_on_with_the_encoder(tiny_model: Callable[..., PreTrainedModel], tmp_path: Path) -> None:
    rows = [{"input_ids": [5 + i, 6, 7, 8], "labels": [5 + i, 6, 7, 8]} for i in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=6, save_steps=3, logging_steps=1,
        learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip

    def trainer() -> Trainer:
        torch.manual_seed(0)
        model = get_peft_model(tiny_model(), PromptEncoderConfig(num_virtual_tokens=3))
        return Trainer(model=model, args=arguments, train_dataset=rows)

    whole, resumed = trainer(), trainer()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    losses = [[e["loss"] for e in run.state.log_history if "loss" in e] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    folder = tmp_path / "checkpoint-3"
    tensors = load_file(folder / "adapter_model.safetensors")
    assert {name: list(t.shape) for name, t in tensors.items()} == {"prompt_embeddings": [3, 32]}
    with pytest.raises(ConfigError, match="computed, not the encoder that is being trained"):
        whole.model.load_adapter(folder, "default", is_trainable=True)
    whole.model.load_adapter(folder, "default")
    assert whole.model.get_nb_trainable_parameters()[0] == 3 * 32


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(),
        PrefixTuningConfig(num_virtual_tokens=3),
        PromptTuningConfig(num_virtual_tokens=3),
        AdaptionPromptConfig(adapter_len=3, adapter_layers=1),
    ],
    ids=lambda config: type(config).__name__,
)
def test_a_script_that_trains_in_bf16_by_autocast_runs(
    config: Any, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    rows = [{"input_ids": [5 + i, 6, 7, 8], "labels": [5 + i, 6, 7, 8]} for i in range(4)]

    def losses(**precision: bool) -> list[float]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=2, logging_steps=1, save_strategy="no",
            report_to=[], use_cpu=True, disable_tqdm=True, **precision,
        )  # fmt: skip
        torch.manual_seed(0)
        trainer = Trainer(model=get_peft_model(tiny_model(), config), args=arguments, train_dataset=rows)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert losses(bf16=True) == pytest.approx(losses(), rel=2e-2)
