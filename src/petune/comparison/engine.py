"""Where trials run: what every engine does, and the one that runs them in this process."""

from collections.abc import Generator, Sequence
from typing import Protocol, final

from petune.comparison.assignment import Assignments
from petune.comparison.folder import Folder
from petune.comparison.record import Trial
from petune.comparison.unit import Unit
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.watching import Watcher


class Engine(Protocol):
    """Runs units of trials that do not depend on one another."""

    tracks_at_once: int
    """How many methods are searched side by side, so that there are units enough to run at the same time."""

    trials_at_once: int
    """How many units run at the same time."""

    def run(self, units: Sequence[Unit]) -> Generator[Trial]:
        """Yield the record of each trial as it ends, in any order; what goes wrong in one is in its record.

        Raises:
            Interrupted, KeyboardInterrupt: it was asked to stop.
            OutputFolderError, ResourceError: nothing can be written any more.
            MetricError: the user's own function does not return what decides.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds; what still runs is stopped, a training with a checkpoint."""


@final
class InlineEngine:
    """Runs units one after another in this process, which dies with them where memory runs out.

    Args:
        assignments: of the comparison's jobs.
        folder: the comparison's.
        watcher: told of what happens.
    """

    tracks_at_once = 1
    trials_at_once = 1

    def __init__(self, assignments: Assignments, folder: Folder, watcher: Watcher) -> None:
        self._assignments = assignments
        self._runner = UnitRunner(folder, watcher)

    def run(self, units: Sequence[Unit]) -> Generator[Trial]:
        """Yield the record of each trial, unit by unit."""
        for unit in units:
            yield from self._runner.run(self._assignments.of(unit))

    def close(self) -> None:
        """Let go of the base."""
        self._runner.close()
