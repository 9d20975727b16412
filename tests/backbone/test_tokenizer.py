from pathlib import Path

import pytest

from petune.backbone.tokenizer import load_tokenizer
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
