import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from petune.comparison import child as child_process
from petune.comparison.assignment import Assignment
from petune.comparison.child import Child, LostChildError, how_it_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "its process ended by itself with exit code 1"),
        (-signal.SIGSEGV, "its process was ended by SIGSEGV"),
        (-signal.SIGKILL, "its process was ended by SIGKILL, as the system does where memory runs out"),
    ],
)
def test_how_a_process_ended(code: int, words: str) -> None:
    assert how_it_ended(code) == words


def test_a_process_that_is_gone_is_noticed(assigned: Callable[..., Assignment], tmp_path: Path) -> None:
    child = Child(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(LostChildError, match="SIGKILL"):
        list(child.run(assigned()))
    child.close()


def test_half_a_message_is_that_of_a_process_that_died(
    assigned: Callable[..., Assignment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "dies_while_it_speaks.py"
    lines = [
        "import os, sys",
        "sys.stdin.readline()",
        "sys.stdout.write('{')",
        "sys.stdout.flush()",
        "os.kill(os.getpid(), 9)",
    ]
    module.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(child_process, "_MODULE", module.stem)
    child = Child(tmp_path)
    with pytest.raises(LostChildError, match="SIGKILL"):
        list(child.run(assigned()))
    child.close()


def test_it_ends_when_it_is_let_go(tmp_path: Path) -> None:
    child = Child(tmp_path)
    child.close()
    assert not Path(f"/proc/{child.pid}").exists()


def test_an_assignment_arrives_as_it_was_sent_whatever_the_encoding(
    assigned: Callable[..., Assignment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    sent = assigned()
    orders = tuple(order.model_copy(update={"refused": "née, 不"}) for order in sent.orders)
    child = Child(tmp_path)
    found = [m.ended for m in child.run(sent.model_copy(update={"orders": orders})) if m.ended is not None]
    child.close()
    assert [trial.reason for trial in found] == ["née, 不"]
