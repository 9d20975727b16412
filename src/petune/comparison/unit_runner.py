"""Runs units of trials in this process."""

import gc
import logging
import shutil
from collections.abc import Iterator, Sequence
from typing import final

import torch

from petune.backbone.precision import pick_device
from petune.comparison import machine
from petune.comparison.bench import Benches
from petune.comparison.ending import ended_with, status_of
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.measure import ADAPTER, perform
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.comparison.shared_pass import perform_together
from petune.comparison.unit import Unit
from petune.comparison.watching import StepsOf, Watcher

logger = logging.getLogger("petune")


@final
class UnitRunner:
    """Runs units in this process; the base of a unit stays loaded for the next one.

    Args:
        tracks: what the trials belong to.
        folder: the comparison's.
        watcher: told of what happens.
        trust_remote_code: let a base's repository run its own code.
    """

    def __init__(
        self, tracks: Sequence[Track], folder: Folder, watcher: Watcher, *, trust_remote_code: bool = False
    ) -> None:
        self._tracks = {(track.survey.name, track.entry.label): track for track in tracks}
        self._folder = folder
        self._watcher = watcher
        self._benches = Benches(trust_remote_code=trust_remote_code)

    def run(self, unit: Unit) -> Iterator[Trial]:
        """Yield the record of each trial of ``unit`` as it ends.

        Where their pass fails for all of them, as where memory runs out, they run again one by one.

        Raises:
            Interrupted, KeyboardInterrupt: it was asked to stop.
            OutputFolderError, ResourceError: nothing can be written any more.
        """
        left = []
        for job in unit.jobs:
            self._watcher.began(job)
            stopped = self._checked(job)
            if stopped is None:
                left.append(job)
            else:
                yield stopped
        if len(left) > 1:
            yield from self._together(left)
        for job in left:
            yield self._alone(job)

    def close(self) -> None:
        """Let go of the base."""
        self._benches.release()

    def _checked(self, job: Job) -> Trial | None:
        """Return the record of a trial that cannot work, without starting it."""
        track = self._track(job)
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

    def _together(self, left: list[Job]) -> Iterator[Trial]:
        """Yield the record of each trial of a shared pass, and strike it off ``left``."""
        jobs = tuple(left)
        try:
            bench = self._benches.for_job(jobs[0], self._track(jobs[0]).survey)
            listeners = {job.id: [StepsOf(job, self._watcher)] for job in jobs}
            done = perform_together(jobs, bench, self._folder.of, trunk=self._folder.trunk, listeners=listeners)
            for job, trial in done:
                left.remove(job)
                if trial.status != "done":
                    self._tidy(job)
                yield trial
            return
        except Exception as error:
            if status_of(error) is None:
                raise
            logger.warning("%d trials run one by one, because their shared pass ended with: %s", len(left), error)
        for job in left:
            self._tidy(job)

    def _alone(self, job: Job) -> Trial:
        track = self._track(job)
        options = track.recipe.options
        try:
            return perform(
                job,
                self._benches.for_job(job, track.survey),
                self._folder.of(job.id),
                lengths=track.survey.train,
                evaluations=options.evaluations,
                keep_adapter=options.keep_adapters,
                trunk=self._folder.trunk,
                listeners=[StepsOf(job, self._watcher)],
            )
        except Exception as error:
            logger.debug("trial %s ended with an error", job.id, exc_info=True)
            trial = ended_with(job, error)
        self._tidy(job)
        return trial

    def _track(self, job: Job) -> Track:
        return self._tracks[job.base, job.entry]

    def _tidy(self, job: Job) -> None:
        """Remove what a trial that failed has left; what it held is free again."""
        shutil.rmtree(self._folder.of(job.id) / ADAPTER, ignore_errors=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
