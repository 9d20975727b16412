from pathlib import Path

import pytest
from transformers import AutoTokenizer

from petune.backbone.tokenizer import load_tokenizer, save_tokenizer
from petune.errors import BaseModelError


def test_tokenizer_and_positions_without_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"never read")
    tokenizer, positions = load_tokenizer(folder)
    assert tokenizer("a b")["input_ids"] == [3, 4]
    assert tokenizer.pad_token == "</s>"
    assert positions == 2048


def test_no_such_folder(folder: Path) -> None:
    with pytest.raises(BaseModelError, match="there is no file or folder"):
        load_tokenizer(folder / "absent")


def test_several_chat_templates_are_kept_without_a_folder_of_their_own(folder: Path, tmp_path: Path) -> None:
    tokenizer, _ = load_tokenizer(folder)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    kept = tmp_path / "kept"
    save_tokenizer(tokenizer, str(kept))
    assert all(path.is_file() for path in kept.iterdir())
    assert AutoTokenizer.from_pretrained(kept).chat_template == tokenizer.chat_template
