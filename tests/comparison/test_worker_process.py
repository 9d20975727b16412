import io
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from petune.comparison.assignment import Assignment
from petune.comparison.message import Message
from petune.comparison.record import Trial
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.worker_process import Inbox, Teller, serve
from petune.errors import OutputFolderError


class Runner:
    """A runner whose trials have a fixed end."""

    def __init__(self, end: Trial | BaseException) -> None:
        self._end = end

    def run(self, assignment: Assignment) -> Iterator[Trial]:
        if isinstance(self._end, BaseException):
            raise self._end
        yield self._end


def said(lines: str, end: Trial | BaseException) -> list[Message]:
    """Return what a process says to the lines that it gets."""
    stream = io.StringIO()
    inbox = Inbox(io.StringIO(lines))
    inbox.open()
    serve(inbox, Teller(stream), cast(UnitRunner, Runner(end)))
    return [Message.model_validate_json(line) for line in stream.getvalue().splitlines()]


def test_each_assignment_is_answered(assigned: Callable[..., Assignment], make_trial: Callable[..., Trial]) -> None:
    trial = make_trial()
    assert said("", trial) == []
    # The stream stays open until both are done, or its end would stop the first.
    line = assigned().model_dump_json() + "\n"

    class Patient(Inbox):  # type: ignore[misc]
        def _read(self) -> None:
            for each in (line, line, None):
                self._lines.put(each)

    stream = io.StringIO()
    inbox = Patient(io.StringIO())
    inbox.open()
    serve(inbox, Teller(stream), cast(UnitRunner, Runner(trial)))
    found = [Message.model_validate_json(line) for line in stream.getvalue().splitlines()]
    assert found == [Message(ended=trial), Message(idle=True)] * 2


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [(OutputFolderError("read-only"), "OutputFolderError", 2), (KeyboardInterrupt(), "Interrupted", 130)],
)
def test_what_ends_everything_is_told(
    error: BaseException, kind: str, code: int, assigned: Callable[..., Assignment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.kill", lambda *_: None)
    (message,) = said(assigned().model_dump_json() + "\n", error)
    assert message.failure is not None
    assert (message.failure.kind, message.failure.exit_code) == (kind, code)


def test_the_end_of_the_stream_stops_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("os.kill", lambda pid, number: sent.append(number))
    inbox = Inbox(io.StringIO("one\n"))
    inbox.busy = True
    inbox.open()
    assert inbox.next() == "one\n"
    assert inbox.next() is None
    while not sent:
        pass
    assert sent == [signal.SIGTERM]


def test_nobody_listens() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Teller(Gone()).say(Message(idle=True))
