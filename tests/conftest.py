"""Tiny random models and a tiny tokenizer, built in milliseconds from a config; nothing comes from a network."""

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from petune.adapter import Adapter
from petune.backbone.base import Base
from petune.backbone.heads import auto_class, choose_task, set_labels
from petune.backbone.task_names import TaskName

torch.set_num_threads(1)

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
VOCABULARY = 288

_BLOCKS = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.15,
}
_GROUPED = {**_BLOCKS, "num_key_value_heads": 2, "head_dim": 8}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DECODER = {"decoder_start_token_id": 0}

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
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 128,
        "init_std": 0.15,
        "dropout": 0.0,
    },
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 4},
    "falcon": {**_BLOCKS, "hidden_dropout": 0.0, "attention_dropout": 0.0, "new_decoder_architecture": False},
    **{name: {**_GROUPED, "max_position_embeddings": 128} for name in ("mistral", "qwen2", "qwen3", "gemma", "glm")},
    "phi": {**_BLOCKS, "max_position_embeddings": 128, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "deepseek_v3": {  # keys are wider than values
        **_BLOCKS,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 128,
    },
    "gemma4_text": {  # layers differ in heads and widths
        **_GROUPED,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 64,
        "global_head_dim": 16,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 0,
        "max_position_embeddings": 128,
    },
    "lfm2": {**_GROUPED, "layer_types": ["conv", "full_attention"], "max_position_embeddings": 128},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.15},
    "llama4_text": {
        **_GROUPED,
        "num_local_experts": 2,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 64,
        "max_position_embeddings": 128,
    },
    "minimax": {**_GROUPED, "num_local_experts": 2, "block_size": 8, "max_position_embeddings": 128},
    "bert": {**_BLOCKS, **_NO_DROPOUT},
    "deberta-v2": {
        **_BLOCKS,
        **_NO_DROPOUT,
        "relative_attention": True,
        "position_buckets": 4,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    **{name: {**_BLOCKS, **_NO_DROPOUT, "max_position_embeddings": 130} for name in ("roberta", "xlm-roberta")},
    **{name: {**_BLOCKS, **_NO_DROPOUT, "embedding_size": 16} for name in ("albert", "electra")},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "initializer_range": 0.15, "dropout": 0.0},
    "modernbert": {**_BLOCKS, "cls_token_id": 2, "sep_token_id": 1, "local_attention": 16},
    "t5": {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 12, "d_ff": 48, "dropout_rate": 0.0, **_DECODER},
    "bart": {
        **{f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in (("layers", 2), ("ffn_dim", 48))},
        "d_model": 32,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 2,
        "max_position_embeddings": 128,
        "init_std": 0.15,
        "dropout": 0.0,
        "forced_eos_token_id": None,
        **_DECODER,
    },
}
ENCODERS = ("albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
ENCODER_DECODERS = ("bart", "t5")


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


def build_text_tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the byte alphabet that ends texts, and begins those of encoders."""
    fast = build_tokenizer()
    reads = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": AddedToken("<mask>", lstrip=True)}
    begin, model = ("<s> ", reads) if architecture in ENCODERS else ("", {})
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin}$A </s>",
        pair=f"{begin}$A </s> $B:1 </s>:1",
        special_tokens=[("<s>", 2), ("</s>", 1)],
    )
    fast.add_special_tokens(model)
    if architecture == "bert":
        fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return fast


WORDS = [
    "a", "an", "the", "film", "joy", "was", "it", "so", "good", "great", "bad", "dull", "and", "long", "terrible",
    "not", "answer", ":", ".", "!", "ter", "##rible",
]  # fmt: skip


def build_word_tokenizer(architecture: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words: white space is part of them (roberta), or only between them (bert)."""
    roberta = architecture == "roberta"
    special = ["<pad>", "</s>", "<s>", "<unk>", "<mask>"]
    words = [w for word in WORDS for w in ([word, f"Ġ{word}"] if roberta else [word])] + ["Ġ"] * roberta
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    if roberta:
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    else:
        without = {word: i for word, i in vocabulary.items() if word != "terrible"}
        tokenizer = Tokenizer(models.WordPiece(without, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>", eos_token="</s>", bos_token="<s>", cls_token="<s>", sep_token="</s>", unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=roberta), model_max_length=128,
    )  # fmt: skip


def build_model(
    architecture: str,
    seed: int,
    dtype: torch.dtype,
    *,
    task: TaskName | None = None,
    labels: Sequence[str] = (),
    **changes: Any,
) -> PreTrainedModel:
    """Return a random model; the same arguments make the same weights."""
    settings = {
        **ARCHITECTURES[architecture],
        "vocab_size": VOCABULARY,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    config = AutoConfig.for_model(architecture, **{**settings, **changes})
    if labels:
        set_labels(config, labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(choose_task(config, task, architecture)).from_config(config)
    return model.to(dtype).eval()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device here"))


@pytest.fixture(autouse=True, scope="session")
def _heeds_ctrl_c() -> Iterator[None]:
    """Take Ctrl-C as a terminal's programs do; a shell's background jobs ignore it, and so would what tests start."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


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
        reads_texts = architecture in (*ENCODERS, *ENCODER_DECODERS)
        tokenizer = build_text_tokenizer(architecture) if reads_texts else build_tokenizer()
        return Base.from_model(model, tokenizer, name=f"tiny-{architecture}")

    return build


@pytest.fixture
def word_tokenizer() -> Callable[[str], PreTrainedTokenizerFast]:
    """Build a tokenizer of whole words: ``word_tokenizer("bert")`` or ``word_tokenizer("roberta")``."""
    return build_word_tokenizer


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out of comparisons what takes most of the time where models are tiny, and has tests of its own."""
    from petune.comparison import measure, survey
    from petune.training import records

    monkeypatch.setattr(survey, "give_back", lambda device: None)
    monkeypatch.setattr(measure, "reset_peak", lambda device: None)
    monkeypatch.setattr(records, "plot_loss", lambda run, output: None)
