"""Tiny random models and a tiny tokenizer, built in milliseconds from a config; nothing comes from a network."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from petune.adapter import Adapter
from petune.backbone.base import Base

torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
VOCABULARY = 288

# Wide starts (initializer_range) make logits differ clearly from row to row.
ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": 0.15,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "bloom": {
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
        "initializer_range": 0.15,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    },
    "gemma2": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "initializer_range": 0.5,
        "final_logit_softcapping": 5.0,
    },
    "cohere": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.15,
        "logit_scale": 0.25,
    },
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte, so that any text has one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", model_max_length=128
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(architecture: str, seed: int, dtype: torch.dtype, **changes: Any) -> PreTrainedModel:
    """Return a random model; the same arguments make the same weights."""
    settings = {
        **ARCHITECTURES[architecture],
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    config = AutoConfig.for_model(architecture, **{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return model.to(dtype).eval()


@pytest.fixture(autouse=True)
def _own_cache(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep what tests cache out of the user's folder; slow ones, which use the demo model, find it there."""
    if request.node.get_closest_marker("slow") is not None:
        return
    monkeypatch.setenv("PETUNE_HOME", str(tmp_path_factory.getbasetemp() / "petune-home"))


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Build a random model: ``tiny_model("llama", seed=0, dtype=torch.float32, **config_changes)``."""

    def build(
        architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
    ) -> PreTrainedModel:
        return build_model(architecture, seed, dtype, **changes)

    return build


@pytest.fixture
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template, padding and end-of-text tokens."""
    return build_tokenizer()


@pytest.fixture
def tiny_base() -> Callable[..., Base]:
    """Build a random base: ``tiny_base("llama", seed=0, dtype=torch.float32, **config_changes)``."""

    def build(
        architecture: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any
    ) -> Base:
        model = build_model(architecture, seed, dtype, **changes)
        return Base.from_model(model, build_tokenizer(), name=f"tiny-{architecture}")

    return build


@pytest.fixture
def tiny_base_for(tiny_base: Callable[..., Base]) -> Callable[..., Base]:
    """Build a random base that a method works on: ``tiny_base_for("lora", seed=0, ...)``; a llama has no biases."""

    def build(method: str, **options: Any) -> Base:
        return tiny_base("gpt2" if method == "bitfit" else "llama", **options)

    return build


@pytest.fixture
def randomise() -> Callable[..., Adapter]:
    """Give an adapter values as training might: its start plus noise that changes the output clearly."""

    @torch.no_grad()
    def change(adapter: Adapter, *, seed: int = 1, scale: float = 0.1) -> Adapter:
        generator = torch.Generator().manual_seed(seed)
        for tensor in adapter.tensors().values():
            tensor.add_(scale * torch.randn(tensor.shape, generator=generator))
        adapter.refresh()
        return adapter

    return change


@pytest.fixture
def write_rows() -> Callable[[Path, Iterable[Mapping[str, Any]]], Path]:
    """Write a JSON Lines file and return its path."""

    def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def token_ids() -> Callable[..., torch.Tensor]:
    """Make random token ids [rows, length] that hold no special token."""

    def make(rows: int, length: int, *, seed: int = 0) -> torch.Tensor:
        return torch.randint(3, 259, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make
