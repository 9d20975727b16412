"""A folder with a tiny model and a few rows, and the command line in it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.cli import main as command_line

ROWS = [{"text": f"row {i}", "label": "positive" if i % 2 else "negative"} for i in range(8)]


@pytest.fixture
def folder(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current folder, with a tiny model in ``tiny`` and eight rows in ``rows.jsonl``."""
    monkeypatch.chdir(tmp_path)
    tiny_model("llama", num_hidden_layers=1).save_pretrained("tiny")
    tiny_tokenizer.save_pretrained("tiny")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path


@pytest.fixture
def petune(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must succeed, and return what it printed to stdout: ``petune("env")``."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        code = command_line.run(arguments)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


@pytest.fixture
def adapter(petune: Callable[..., str]) -> str:
    """Folder of an adapter trained for one step on the rows."""
    petune("train", "--model", "tiny", "--data", "rows.jsonl", "--output-dir", "out", "--max-steps", "1")
    return "out"
