"""A process that runs trials for another one: assignments come on stdin, messages go to stdout, a line of JSON each.

It is started as ``python -m petune.comparison.worker_process FOLDER``, and ends when stdin is closed, that is, when the
process which started it lets go of it or is no more.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO, final

from petune.comparison.assignment import Assignment
from petune.comparison.failure import Failure
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.message import Message
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.watching import Unwatched
from petune.errors import Interrupted, PetuneError
from petune.training.signals import interrupted_by_sigterm


@final
class Teller(Unwatched):
    """Tells of trials in messages.

    Args:
        stream: what they are written to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def began(self, job: Job) -> None:
        """Tell it."""
        self.say(Message(began=job.id))

    def stepped(self, job: Job, step: int, total: int) -> None:
        """Tell it."""
        self.say(Message(stepped=(job.id, step, total)))

    def say(self, message: Message) -> None:
        """Write a message; where nobody listens any more, a training must still come to its checkpoint."""
        with suppress(BrokenPipeError):
            self._stream.write(message.line())
            self._stream.flush()


@final
class Inbox:
    """The lines of a stream, read ahead, so that its end is noticed while a trial runs.

    Args:
        stream: what is read.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.busy = False
        """Whether a trial runs, which then is to be stopped."""

    def open(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> str | None:
        """Return the next line, when it has come; None at the end."""
        return self._lines.get()

    def _read(self) -> None:
        for line in self._stream:
            self._lines.put(line)
        self._lines.put(None)
        if self.busy:
            os.kill(os.getpid(), signal.SIGTERM)


def serve(inbox: Inbox, teller: Teller, runner: UnitRunner) -> None:
    """Run what comes until nothing comes any more, or an error ends it all."""
    try:
        with interrupted_by_sigterm():
            while (line := inbox.next()) is not None:
                inbox.busy = True
                for trial in runner.run(Assignment.model_validate_json(line)):
                    teller.say(Message(ended=trial))
                inbox.busy = False
                teller.say(Message(idle=True))
    except PetuneError as error:
        teller.say(Message(failure=Failure.of(error)))
    except KeyboardInterrupt:
        teller.say(Message(failure=Failure.of(Interrupted("stopped by a signal", signal.SIGINT))))


def main() -> None:
    """Serve the process at the other end of stdin and stdout."""
    with suppress(BrokenPipeError), os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as stream:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no message
        teller = Teller(stream)
        inbox = Inbox(os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8"))  # whatever the terminal's is
        inbox.open()
        serve(inbox, teller, UnitRunner(Folder(Path(sys.argv[1])), teller))


if __name__ == "__main__":
    main()
