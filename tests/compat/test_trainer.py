"""What transformers' Trainer sees, with HF PEFT installed and without."""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils.generic import find_labels

from petune.compat.peft import LoraConfig, PeftModel, get_peft_model

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
