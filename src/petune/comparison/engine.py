"""Where trials run."""

from collections.abc import Iterator, Sequence
from typing import Protocol, final

from petune.comparison.folder import Folder
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.comparison.unit import Unit
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.watching import Watcher


class Engine(Protocol):
    """Runs units of trials that do not depend on one another."""

    tracks_at_once: int
    """How many methods are searched side by side, so that there are units enough to run at the same time."""

    def run(self, units: Sequence[Unit]) -> Iterator[Trial]:
        """Yield the record of each trial as it ends, in any order; what goes wrong in one is in its record.

        Raises:
            Interrupted, KeyboardInterrupt: it was asked to stop.
            OutputFolderError, ResourceError: nothing can be written any more.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""


@final
class LocalEngine:
    """Runs units one after another in this process, all trials of a base on one copy of it.

    Args:
        tracks: what will run.
        folder: the comparison's.
        watcher: told of what happens.
        trust_remote_code: let a base's repository run its own code.
    """

    tracks_at_once = 1

    def __init__(
        self, tracks: Sequence[Track], folder: Folder, watcher: Watcher, *, trust_remote_code: bool = False
    ) -> None:
        self._runner = UnitRunner(tracks, folder, watcher, trust_remote_code=trust_remote_code)

    def run(self, units: Sequence[Unit]) -> Iterator[Trial]:
        """Yield the record of each trial, unit by unit."""
        for unit in units:
            yield from self._runner.run(unit)

    def close(self) -> None:
        """Let go of the base."""
        self._runner.close()
