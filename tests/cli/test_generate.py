import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.cli import main as command_line
from petune.evaluation.generate import Generation

GENERATE = ("generate", "--model", "tiny", "--max-new-tokens", "4")


def test_each_prompt_is_continued(petune: Callable[..., str]) -> None:
    printed = petune(*GENERATE, "--prompt", "one ", "--prompt", "two ", "--json")
    answers = [json.loads(line) for line in printed.splitlines()]
    assert [answer["prompt"] for answer in answers] == ["one ", "two "]
    assert all(answer["num_tokens"] <= 4 for answer in answers)
    assert petune(*GENERATE, "--prompt", "one ") == f"one {answers[0]['text']}\n"


def test_a_prompt_from_stdin(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one "))
    assert petune(*GENERATE, "--prompt", "-") == petune(*GENERATE, "--prompt", "one ")


def test_a_prompt_as_a_user_turn(petune: Callable[..., str]) -> None:
    answer = petune(*GENERATE, "--prompt", "one", "--chat")
    assert petune(*GENERATE, "--prompt", "<user>one</s><assistant>").endswith(answer)


def test_a_line_break_may_end_the_text(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    stops = []

    def generate(model: object, prompts: list[str], *, stop: tuple[str, ...], **options: object) -> list[Generation]:
        stops.append(stop)
        return [Generation("", 0, "stop") for _ in prompts]

    monkeypatch.setattr("petune.api.generate", generate)
    petune(*GENERATE, "--prompt", "one", "--stop", r"\n")
    petune(*GENERATE, "--prompt", "one", "--stop", r"\n\n,END")
    assert stops == [("\n",), ("\n\n", "END")]


def test_an_adapter_answers(petune: Callable[..., str], adapter: str) -> None:
    assert petune("generate", "--adapter", adapter, "--prompt", "one ", "--max-new-tokens", "2").startswith("one ")


def test_a_quantised_base(petune: Callable[..., str]) -> None:
    plain = petune(*GENERATE, "--prompt", "one ")
    assert petune(*GENERATE, "--prompt", "one ", "--quantization", "8bit").startswith("one ")
    assert petune(*GENERATE, "--prompt", "one ", "--quantization", "none") == plain


def test_what_is_no_text_is_told(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    assert command_line.run(["generate", "--model", "tiny", "--prompt", "-"]) == 2
    assert "stdin is not utf-8: " in capsys.readouterr().err


def test_an_encoding_that_lacks_a_letter_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", stream)
    with pytest.raises(SystemExit) as stop:
        command_line.main(["data", "inspect", "rows.jsonl", "--model", "tiny"])
    assert stop.value.code == 0
    stream.flush()
    assert b"\\u27e6" in stream.buffer.getvalue()  # type: ignore[attr-defined]
