"""A byte-level BPE tokenizer trained on the spot, with chat templates of every kind."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The film was a quiet joy from start to end. Label: positive",
    "The film was dull and far too long. Label: negative",
    "Question: Where does the river rise? Answer: in the hills",
    "Instruction: name a colour. Response: green",
    "user: hello there, assistant: good morning to you, system: be brief",
]
SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED_WITHOUT_END = MARKED.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
# Writes an empty thought before the answer of the last turn only, and trims contents.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Opens a thought for the model to go on with, which written turns do not have.
OPEN_THOUGHT = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}")
# Has no generation prompt of its own, and writes nothing of the system.
INSTRUCT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Leaves out what the assistant said before the last turn: no span can be found.
FORGETFUL = (
    "{% for m in messages %}{% if m['role'] != 'assistant' or loop.last %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def build_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a fresh tokenizer whose PAD is its EOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    fast.chat_template = chat_template
    return fast


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


TEMPLATES = {
    "CHATML": CHATML,
    "MARKED": MARKED,
    "MARKED_WITHOUT_END": MARKED_WITHOUT_END,
    "THINKING": THINKING,
    "OPEN_THOUGHT": OPEN_THOUGHT,
    "INSTRUCT": INSTRUCT,
    "FORGETFUL": FORGETFUL,
    "PLAIN": PLAIN,
}


@pytest.fixture
def tokenizer_with() -> Callable[[str], PreTrainedTokenizerFast]:
    """Return a tokenizer with the chat template of this name."""
    return lambda name: build_tokenizer(TEMPLATES[name])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a file of rows (objects), lines (text) or bytes, and return its path."""

    def write_file(name: str, content: bytes | str | Sequence[Mapping[str, Any]]) -> str:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_bytes(content.encode())
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content))
        return str(path)

    return write_file
