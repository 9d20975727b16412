"""Trials one after another on this machine, in a process of their own: it may die, and the comparison goes on."""

from collections import deque
from collections.abc import Generator, Sequence
from typing import final

from petune.comparison.assignment import Assignments
from petune.comparison.attempts import Attempts
from petune.comparison.child import Child, LostChildError
from petune.comparison.failure import Failure
from petune.comparison.folder import Folder
from petune.comparison.message import Message
from petune.comparison.record import Trial
from petune.comparison.unit import Unit
from petune.comparison.watching import Watcher


@final
class LocalEngine:
    """Runs units one after another, all trials of a base on one copy of it.

    Args:
        assignments: of the comparison's jobs.
        folder: the comparison's.
        watcher: told of what happens.
        retries: how often a trial is begun again whose process died.
    """

    tracks_at_once = 1
    trials_at_once = 1

    def __init__(self, assignments: Assignments, folder: Folder, watcher: Watcher, *, retries: int) -> None:
        self._assignments = assignments
        self._folder = folder
        self._watcher = watcher
        self._attempts = Attempts(retries)
        self._child: Child | None = None

    def run(self, units: Sequence[Unit]) -> Generator[Trial]:
        """Yield the record of each trial, in their order, apart from those that are begun again."""
        waiting = deque(units)
        while waiting:
            unit = waiting.popleft()
            ended: set[str] = set()
            try:
                for message in self._ready().run(self._assignments.of(unit)):
                    if message.failure is not None:
                        raise _what_happened(message.failure)
                    if message.ended is not None:
                        ended.add(message.ended.id)
                        yield message.ended
                    self._tell(unit, message)
            except LostChildError as error:
                self.close()
                again, given_up = self._attempts.after_loss(unit, ended=ended, reason=str(error))
                waiting.extendleft(reversed(again))
                yield from given_up

    def close(self) -> None:
        """Let go of the process."""
        if self._child is not None:
            child, self._child = self._child, None
            child.close()

    def _ready(self) -> Child:
        if self._child is None:
            self._child = Child(self._folder.path)
        return self._child

    def _tell(self, unit: Unit, message: Message) -> None:
        jobs = {job.id: job for job in unit.jobs}
        if message.began is not None:
            self._watcher.began(jobs[message.began])
        if message.stepped is not None:
            name, step, total = message.stepped
            self._watcher.stepped(jobs[name], step, total)


def _what_happened(failure: Failure) -> Exception:
    """Return the error that ends everything, or the loss of a process that was stopped while this one was not."""
    return LostChildError(f"its process was stopped by {failure.stopped_by}") if failure.stopped_by else failure.error()
