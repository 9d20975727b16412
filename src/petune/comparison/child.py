"""The process on this machine that runs trials, seen from the one that follows them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

from petune.comparison.assignment import Assignment
from petune.comparison.message import Message

_MODULE = "petune.comparison.worker_process"
_PATIENCE = 60.0
"""Seconds that a training has to write its checkpoint, once it was asked to stop."""


class LostChildError(Exception):
    """The process is no more; the message says how it ended."""


@final
class Child:
    """A process of this machine that runs trials.

    Args:
        folder: the comparison's.
    """

    def __init__(self, folder: Path) -> None:
        self._busy = False
        # A session of its own: Ctrl-C reaches this process alone, which then says what is to be done.
        self._process = subprocess.Popen(  # noqa: S603 - our own module, run by the same Python
            [sys.executable, "-P", "-m", _MODULE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
        self._pump = threading.Thread(target=self._pass_on, daemon=True)
        self._pump.start()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def run(self, assignment: Assignment) -> Iterator[Message]:
        """Yield what it says while it runs the assignment.

        Raises:
            LostChildError: it died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._busy = True
        with suppress(BrokenPipeError):
            self._process.stdin.write(assignment.model_dump_json() + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if not line.endswith("\n"):
                break  # it died in the middle of it
            message = Message.model_validate_json(line)
            if message.idle:
                self._busy = False
                return
            yield message
        code = self._process.wait()
        self._busy = False
        raise LostChildError(how_it_ended(code))

    def close(self) -> None:
        """End it: at once where it waits, after a checkpoint where it trains."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdout.close()
            if self._busy:
                self._process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_PATIENCE)
        finally:
            self._process.kill()
            self._process.wait()
            self._pump.join()
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _pass_on(self) -> None:
        """Write what it says to stderr to this process's, which may show a table there."""
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                sys.stderr.write(line)


def how_it_ended(code: int) -> str:
    """Return in words what became of a process that should not have ended."""
    if code >= 0:
        return f"its process ended by itself with exit code {code}"
    name = signal.Signals(-code).name
    why = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{why}"
