import io
from collections.abc import Callable

import pytest

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


def test_a_system_message_changes_the_answer(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    answers = []
    for arguments in ((), ("--system", "Be brief, and never greet anybody.")):
        monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
        answers.append(petune(*CHAT, *arguments))
    assert answers[0] != answers[1]
