"""Where trials run."""

import gc
import logging
import shutil
from collections.abc import Iterator, Sequence
from typing import Protocol, final

import torch

from petune.backbone.precision import pick_device
from petune.comparison import machine
from petune.comparison.bench import Benches
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.measure import ADAPTER, perform
from petune.comparison.plan import Track
from petune.comparison.record import Status, Trial
from petune.comparison.watching import StepsOf, Watcher
from petune.errors import InputError, Interrupted, MissingExtraError, OutputFolderError, PetuneError, ResourceError

logger = logging.getLogger("petune")

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


class Engine(Protocol):
    """Runs trials that do not depend on one another."""

    tracks_at_once: int
    """How many methods are searched side by side, so that there are trials enough to run at the same time."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Trial]:
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
    """Runs trials one after another in this process, all trials of a base on one copy of it.

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
        self._tracks = {(track.survey.name, track.entry.label): track for track in tracks}
        self._folder = folder
        self._watcher = watcher
        self._benches = Benches(trust_remote_code=trust_remote_code)

    def run(self, jobs: Sequence[Job]) -> Iterator[Trial]:
        """Yield the record of each trial, in their order."""
        for job in jobs:
            self._watcher.began(job)
            yield self._checked(job) or self._run(job)

    def close(self) -> None:
        """Let go of the base."""
        self._benches.release()

    def _checked(self, job: Job) -> Trial | None:
        """Return the record of a trial that cannot work, without starting it."""
        track = self._tracks[job.base, job.entry]
        refused = track.survey.outlook(job.method, job.settings).refused
        if refused is not None:
            return job.record("refused", reason=refused)
        needed = track.cost(job).least_memory
        there = machine.memory(pick_device(str(job.keys["device"])))
        if needed > there:
            return job.record(
                "out_of_memory",
                reason=f"it would need {needed / 2**30:,.1f} GiB at the least, and there are {there / 2**30:,.1f} GiB;"
                " it was not started",
            )
        return None

    def _run(self, job: Job) -> Trial:
        track = self._tracks[job.base, job.entry]
        options = track.recipe.options
        try:
            return perform(
                job,
                self._benches.for_job(job, track.survey),
                self._folder.of(job.id),
                lengths=track.survey.train,
                evaluations=options.evaluations,
                keep_adapter=options.keep_adapters,
                listeners=[StepsOf(job, self._watcher)],
            )
        except (Interrupted, OutputFolderError):
            raise
        except Exception as error:
            status = status_of(error)
            if status is None:
                raise
            logger.debug("trial %s ended with an error", job.id, exc_info=True)
            reason = str(error) if isinstance(error, PetuneError) else f"{type(error).__name__}: {error}"
        self._tidy(job)
        return job.record(status, reason=" ".join(reason.split()) or "no reason was given")

    def _tidy(self, job: Job) -> None:
        """Remove what a trial that failed has left; what it held is free again."""
        shutil.rmtree(self._folder.of(job.id) / ADAPTER, ignore_errors=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def status_of(error: Exception) -> Status | None:
    """Return how a trial ended that raised ``error``; None where no other trial could do better."""
    said = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out_of_memory"
    if isinstance(error, RuntimeError | ResourceError) and any(words in said for words in _NO_MEMORY):
        return "out_of_memory"
    if isinstance(error, ResourceError) and not isinstance(error, MissingExtraError):
        return None
    return "refused" if isinstance(error, InputError) else "failed"
