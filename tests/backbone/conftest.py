"""A tiny model, its tokenizer and its folder, and a cache of the test's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from petune.backbone.loading import quiet

SIZES = {
    "vocab_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(autouse=True)
def petune_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "petune_home"
    monkeypatch.setenv("PETUNE_HOME", str(home))
    return home


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<s>", "</s>", "<unk>", "a", "b", "c", "d", "e"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


@pytest.fixture
def save(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Save a model with the tokenizer into a new folder."""

    def into(model: PreTrainedModel, name: str = "model", **options: object) -> Path:
        with quiet():
            model.save_pretrained(tmp_path / name, **options)
            tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return into


@pytest.fixture
def folder(model: LlamaForCausalLM, save: Callable[..., Path]) -> Path:
    return save(model)


@pytest.fixture
def gguf(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A GGUF file of the llama shape with half-precision weights, and these weights by their GGUF names."""
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "a", "b", "c", "ab", "Ġ", "d"])
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (8, 32), "output_norm.weight": (32,)}
    shapes |= {f"blk.0.{name}.weight": (32,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.{name}.weight": (32, 32) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{name}.weight": (48, 32) for name in ("ffn_gate", "ffn_up")}
    shapes |= {"blk.0.ffn_down.weight": (32, 48)}
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, tensors
