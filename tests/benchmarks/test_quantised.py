"""The measuring of quantised bases runs, in processes of its own."""

from pathlib import Path

import pytest
import quantised
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from petune.backbone.loading import quiet


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> str:
    sizes = {"vocab_size": 288, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    with quiet():
        LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=64)).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_one_line_for_each_way_to_keep_a_base(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", base, "--threads", str(torch.get_num_threads())]
    assert quantised.main([*options, "--kept", "plain", "4bit", "--repeats", "1", "--steps", "1"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[0].strip() for row in rows] == ["plain", "4bit"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[2:])


def test_blocks_take_less_memory(base: str) -> None:
    plain, packed = (quantised.measured(kept, base, "float32", 1) for kept in ("plain", "8bit"))
    linears = 4 * 64 * 64 + 3 * 64 * 64
    assert 1e6 * (plain["weights"] - packed["weights"]) == pytest.approx(linears * (4 - 34 / 32))
