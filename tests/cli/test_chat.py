import io
from collections.abc import Callable

import pytest

from petune.cli import main as command_line

CHAT = ("chat", "--model", "tiny", "--max-new-tokens", "4")


def test_the_conversation_so_far_is_remembered(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def talk(lines: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return petune(*CHAT)

    first = talk("hello\n")
    assert first.endswith("\n")
    assert talk("hello\n/exit\nnever read\n") == first
    assert talk("\nhello\n") == first
    assert talk("hello\n/reset\nhello\n") == first + first
    assert talk("hello\nhello\n") != first + first


def test_a_conversation_that_grew_too_long_can_start_anew(
    petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk(*lines: str) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return petune(*CHAT)

    first = talk("hello")
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n" + "x" * 100 + "\n/reset\nhello\n"))
    assert command_line.run(CHAT) == 0
    captured = capsys.readouterr()
    assert captured.out == first + first
    assert "fill the model's context of 128 tokens" in captured.err
    assert captured.err.endswith("; /reset starts anew\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 200 + "\n"))
    assert command_line.run(CHAT) == 2


def test_a_system_message_changes_the_answer(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for arguments in ((), ("--system", "Be brief, and never greet anybody.")):
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        answers.append(petune(*CHAT, *arguments))
    assert answers[0] != answers[1]
