"""A tiny model, its tokenizer and its folder, and a cache of the test's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter
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


def write_gguf(path: Path, pack: Callable[[np.ndarray], tuple[np.ndarray, GGMLQuantizationType]], width: int) -> None:
    """Write a GGUF file of the llama shape; ``pack`` makes what is stored of each matrix, and says what that is."""
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width + 16)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_vocab_size(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "a", "b", "c", "ab", "Ġ", "d"])
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (8, width), "output_norm.weight": (width,)}
    shapes |= {f"blk.0.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {f"blk.0.{name}.weight": (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {f"blk.0.{name}.weight": (width + 16, width) for name in ("ffn_gate", "ffn_up")}
    shapes |= {"blk.0.ffn_down.weight": (width, width + 16)}
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        stored, kind = pack(random.standard_normal(shape).astype(np.float16))
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def gguf(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A GGUF file of the llama shape with half-precision weights, and these weights by their GGUF names."""
    path = tmp_path / "tiny.gguf"
    write_gguf(path, lambda numbers: (numbers, GGMLQuantizationType.F16), 32)
    return path, {str(tensor.name): np.array(tensor.data) for tensor in GGUFReader(path).tensors}


@pytest.fixture
def packed_gguf(tmp_path: Path) -> Callable[[str], Path]:
    """Write a GGUF file whose matrices are blocks of random bytes, where whole blocks make up their rows."""

    def write(kind: str) -> Path:
        wanted = GGMLQuantizationType[kind]
        values, size = GGML_QUANT_SIZES[wanted]
        random = np.random.default_rng(1)

        def pack(numbers: np.ndarray) -> tuple[np.ndarray, GGMLQuantizationType]:
            if numbers.ndim == 1 or numbers.shape[1] % values:
                return numbers.astype(np.float32), GGMLQuantizationType.F32
            # no byte above 0x3b: a scale of fp16 that ends in it is below one, and finite
            return random.integers(0, 0x3C, (len(numbers), numbers.shape[1] // values * size), dtype=np.uint8), wanted

        write_gguf(tmp_path / f"{kind}.gguf", pack, max(values, 32))
        return tmp_path / f"{kind}.gguf"

    return write
