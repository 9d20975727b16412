from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from petune.backbone.base import load_base
from petune.backbone.packed_weight import is_packed, stored_bytes
from petune.backbone.quantization import kept_as, unpacked, weights_size
from petune.backbone.rounded_blocks import ROUNDINGS
from petune.errors import BaseModelError, ConfigError

SIZES = {
    "vocab_size": 8,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "pad_token_id": 0,
}


@pytest.fixture
def wide(save: Callable[..., Path]) -> Path:
    torch.manual_seed(0)
    return save(LlamaForCausalLM(LlamaConfig(**SIZES)), "wide")


@pytest.mark.parametrize("quantization", ROUNDINGS)
def test_linears_of_the_blocks_are_rounded(quantization: str, wide: Path) -> None:
    base = load_base(wide, dtype="float32", device="cpu", quantization=quantization)
    assert base.quantization == quantization
    plain = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32)
    rounding = ROUNDINGS[quantization]
    packed = {name for name, parameter in base.model.named_parameters() if is_packed(parameter)}
    whole_blocks = 96 % rounding.form.values == 0  # of the rows of down_proj
    assert len(packed) == 2 * (6 + whole_blocks)
    kept = sum(stored_bytes(parameter) for parameter in base.model.parameters())
    assert weights_size(plain, 4, kept_as(quantization, wide)) == kept
    for name, parameter in plain.named_parameters():
        ours = base.model.get_parameter(name).detach()
        if name in packed:
            numbers = rounding.form.decode(rounding.blocks(parameter).view(-1, rounding.form.size))
            assert torch.equal(ours.dequantize(), numbers.view(parameter.shape))
        else:
            assert torch.equal(ours, parameter)


def test_a_head_that_starts_at_random_is_not_rounded(wide: Path) -> None:
    base = load_base(
        wide, task="sequence_classification", labels=["a", "b"], device="cpu", dtype="float32", quantization="8bit"
    )
    plain = load_base(wide, task="sequence_classification", labels=["a", "b"], device="cpu", dtype="float32")
    assert torch.equal(base.model.score.weight, plain.model.score.weight)
    assert base.fingerprint == plain.fingerprint


def test_blocks_of_a_gguf_file_take_what_the_file_takes(packed_gguf: Callable[[str], Path]) -> None:
    path = packed_gguf("Q8_0")
    plain = load_base(path, dtype="float32", device="cpu").model
    assert weights_size(plain, 4, kept_as("gguf", path)) == min(path.stat().st_size, weights_size(plain, 4, None))
    assert kept_as(None, path) is None


def test_new_tokens_unpack_the_tables_they_change(packed_gguf: Callable[[str], Path]) -> None:
    base = load_base(packed_gguf("Q8_0"), dtype="float32", device="cpu", quantization="gguf")
    old = base.model.get_input_embeddings().weight.dequantize()
    base.add_tokens(["abcd"])
    table = base.model.get_input_embeddings().weight
    assert not is_packed(table)
    assert base.model.lm_head.weight is table
    assert torch.equal(table[:8], old)
    assert is_packed(base.model.model.layers[0].mlp.up_proj.weight)


def test_plain_for_a_while(wide: Path) -> None:
    base = load_base(wide, dtype="float32", device="cpu", quantization="8bit")
    before = dict(base.model.named_parameters())
    with unpacked(base.model):
        for name, parameter in base.model.named_parameters():
            assert not is_packed(parameter)
            assert torch.equal(parameter, before[name].detach())
    assert all(parameter is before[name] for name, parameter in base.model.named_parameters())


def test_what_cannot_be(wide: Path, folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"quantization '8 bit' is unknown. Did you mean '8bit'\? Choose from gguf, 8"
    ):
        load_base(wide, quantization="8 bit", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"keeps the blocks of a .gguf file, and .*wide is none; choose 8bit or 4bit"):
        load_base(wide, quantization="gguf", device="cpu")
    with pytest.raises(BaseModelError, match=r"no weight of .*model can be kept as quantization 4bit: no linear has"):
        load_base(folder, quantization="4bit", device="cpu")
