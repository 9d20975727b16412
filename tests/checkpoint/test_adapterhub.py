"""AdapterHub's folders compute here what they compute there; `adapterhub/make_fixtures.py` made them with its library."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

import petune
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.backbone.heads import auto_class, set_labels
from petune.backbone.task_names import TaskName
from petune.checkpoint.adapterhub import LAYOUTS
from petune.checkpoint.folder import base_of, load_adapter, save_adapter, task_of
from petune.errors import AdapterFormatError, BaseMismatchError
from petune.methods import names

FIXTURES = Path(__file__).parent / "adapterhub"
HEADS = {"classes", "classes_pooled", "tags", "spans", "classes_deep"}
FOLDERS = sorted(path.parent.relative_to(FIXTURES) for path in FIXTURES.glob("*/*/adapter_config.json"))
PLAIN = [folder for folder in FOLDERS if folder.name not in HEADS]


def base_for(architecture: str, task: TaskName | None = None, labels: tuple[str, ...] = ()) -> Base:
    folder = FIXTURES / architecture
    config = AutoConfig.from_pretrained(folder)
    if labels:
        set_labels(config, labels)
    language_model: TaskName = "masked_lm" if architecture in ("bert", "roberta") else "causal_lm"
    language_model = "seq2seq_lm" if config.is_encoder_decoder else language_model
    model = auto_class(task or language_model).from_pretrained(folder, config=config)
    return Base.from_model(model, name=f"tiny-{architecture}")


def expected(folder: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return the inputs, the logits without the adapter, and those with it."""
    tensors = load_file(FIXTURES / folder.parent / "outputs.safetensors")
    inputs = {name: tensor for name, tensor in tensors.items() if not name.startswith("logits")}
    return inputs, tensors["logits"], tensors[f"logits.{folder.name}"]


def real(inputs: dict[str, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of real tokens; those at padding mean nothing."""
    if "decoder_input_ids" in inputs or logits.ndim == 2:
        return logits
    return logits[inputs["attention_mask"].bool()]


def test_the_fixtures_are_all_there() -> None:
    assert len(FOLDERS) == 41
    assert LAYOUTS.keys() <= set(names())
    assert not [path for path in FIXTURES.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


@pytest.mark.parametrize("folder", PLAIN, ids=str)
@torch.no_grad()
def test_outputs_are_those_of_the_library(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = base_for(folder.parent.name)
    inputs, bare, wanted = expected(folder)
    torch.testing.assert_close(real(inputs, base.model(**inputs).logits), real(inputs, bare), rtol=1e-4, atol=1e-4)
    with caplog.at_level(logging.WARNING, logger="petune"):
        adapter = load_adapter(FIXTURES / folder, base)
    assert "its base is unverified" in caplog.text
    ours = AdaptedModel(base, [adapter])(**inputs).logits
    assert (real(inputs, wanted) - real(inputs, bare)).abs().max() > 0.05
    torch.testing.assert_close(real(inputs, ours), real(inputs, wanted), rtol=1e-4, atol=1e-4)
