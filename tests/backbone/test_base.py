import hashlib
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from petune.backbone.base import Base, load_base, meta_model
from petune.backbone.fingerprint import parameter_count
from petune.errors import BaseModelError


def test_loaded_from_a_folder(folder: Path, model: LlamaForCausalLM) -> None:
    base = load_base(folder, dtype="float32", device="cpu")
    ids = torch.tensor([[0, 3, 4, 5]])
    torch.testing.assert_close(base.model(ids).logits, model.eval()(ids).logits, rtol=0, atol=0)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert (base.name, base.revision, base.dtype, base.device.type) == (
        str(folder),
        None,
        torch.float32,
        "cpu",
    )
    assert base.tokenizer.pad_token == base.tokenizer.eos_token == "</s>"
    assert base.structure.num_blocks == 2
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert base.fingerprint.weights == f"sha256:{digest}"
    assert base.fingerprint is base.fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "fp16"])
def test_asked_dtype(dtype: str, folder: Path) -> None:
    base = load_base(folder, dtype=dtype, device="cpu")
    assert {p.dtype for p in base.model.parameters()} == {{"fp16": torch.float16}.get(dtype, torch.bfloat16)}


def test_from_a_model_in_memory(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    base = Base.from_model(model.train(), tokenizer, name="mine")
    assert base.model is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (base.name, base.fingerprint.weights, tokenizer.pad_token) == ("mine", "unverified", "</s>")


def test_own_padding_token_is_kept(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.pad_token = "e"
    assert Base.from_model(model, tokenizer).tokenizer.pad_token == "e"


def test_tokenizer_that_cannot_pad(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = None
    with pytest.raises(BaseModelError, match="tokenizer of mine has neither a padding nor an end-of-text token"):
        Base.from_model(model, tokenizer, name="mine")


def test_model_without_a_head(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(BaseModelError, match=r"a LlamaModel has no head of a task .*classes for causal_lm, sequence"):
        Base.from_model(LlamaModel(model.config), tokenizer, name="mine")


def test_meta_model_has_the_sizes_and_no_weights(folder: Path, model: LlamaForCausalLM) -> None:
    built = meta_model(folder)
    assert {p.device.type for p in built.parameters()} == {"meta"}
    assert parameter_count(built) == parameter_count(model)
