"""Tiny random models with a tokenizer trained on the spot, and rows made by hand."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from petune.data.examples import Example, ExampleSet, Segment
from petune.sites.placement import Insertion

CONTEXT = 96
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "a quiet joy of a film, positive positive positive",
    "dull and far too long, negative negative negative",
    "the river rises in the hills and the hills are green",
]


@dataclass(frozen=True)
class TinyRunner:
    """The least that evaluation asks for."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    insertions: tuple[Insertion, ...] = ()
    virtual_tokens: int = 0

    @property
    def device(self) -> torch.device:
        return self.model.device

    def modules(self) -> Iterator[nn.Module]:
        return self.model.modules()

    def fast_inference(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level: every text has tokens. PAD is EOS; " positive" and " negative" are one token each."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = CHATML
    assert len(fast(" positive")["input_ids"]) == len(fast(" negative")["input_ids"]) == 1
    return fast


def _llama(vocabulary: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def _gpt2(vocabulary: int) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config)


@pytest.fixture(params=["llama", "gpt2"])
def runner(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> TinyRunner:
    torch.manual_seed(0)
    build = {"llama": _llama, "gpt2": _gpt2}[request.param]
    return TinyRunner(build(len(tokenizer)).eval().requires_grad_(False), tokenizer)


@pytest.fixture
def full_log_probabilities(runner: TinyRunner) -> Callable[[Sequence[int]], torch.Tensor]:
    """The oracle: one row alone, all positions, plain call."""

    def compute(ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            return runner.model(input_ids=torch.tensor([list(ids)])).logits[0].float().log_softmax(-1)

    return compute


@pytest.fixture
def row() -> Callable[..., Example]:
    """Make a row: a prompt, and a target written after one space."""

    def make(prompt: str, target: str | None = None, *, label: bool = False, origin: str = "rows.jsonl:1") -> Example:
        segments = (Segment(prompt, False), Segment("" if target is None else f" {target}", True))
        return Example(origin, segments, prompt, target, target if label else None, {"text": prompt}, True)

    return make


@pytest.fixture
def reviews(row: Callable[..., Example]) -> ExampleSet:
    """Classification rows of different lengths."""
    texts = [
        ("a quiet joy,", "positive"),
        ("dull,", "negative"),
        ("the river rises in the hills and it is green green green,", "positive"),
        ("far too long and far too dull for me,", "negative"),
        ("a film,", "negative"),
    ]
    rows = [row(t, y, label=True, origin=f"rows.jsonl:{i + 1}") for i, (t, y) in enumerate(texts)]
    return ExampleSet(rows, source="rows.jsonl", layout="text-label")
