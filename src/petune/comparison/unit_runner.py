"""Runs units of trials in this process."""

import gc
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch

from petune.backbone.precision import pick_device
from petune.comparison import machine
from petune.comparison.assignment import Assignment, Order
from petune.comparison.bench import Benches
from petune.comparison.ending import ended_with, status_of
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.measure import ADAPTER, perform
from petune.comparison.record import Trial
from petune.comparison.shared_pass import perform_together
from petune.comparison.watching import StepsOf, Watcher

logger = logging.getLogger("petune")


@final
class UnitRunner:
    """Runs units in this process; the base of a unit stays loaded for the next one.

    Args:
        folder: the comparison's.
        watcher: told of what happens.
    """

    def __init__(self, folder: Folder, watcher: Watcher) -> None:
        self._folder = folder
        self._watcher = watcher
        self._benches = Benches()

    def run(self, assignment: Assignment) -> Iterator[Trial]:
        """Yield the record of each trial of a unit as it ends.

        Where their pass fails for all of them, as where memory runs out, they run again one by one.

        Raises:
            Interrupted, KeyboardInterrupt: it was asked to stop.
            OutputFolderError, ResourceError: nothing can be written any more.
            MetricError: the user's own function does not return what decides.
        """
        left = []
        with _threads(assignment.threads):
            for order in assignment.orders:
                self._watcher.began(order.job)
                stopped = _unfit(order)
                if stopped is None:
                    left.append(order.job)
                else:
                    yield stopped
            if len(left) > 1:
                yield from self._together(left, assignment)
            for job in left:
                yield self._alone(job, assignment)

    def close(self) -> None:
        """Let go of the base."""
        self._benches.release()

    def _together(self, left: list[Job], assignment: Assignment) -> Iterator[Trial]:
        """Yield the record of each trial of a shared pass, and strike it off ``left``."""
        jobs = tuple(left)
        try:
            bench = self._benches.for_job(jobs[0], assignment)
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

    def _alone(self, job: Job, assignment: Assignment) -> Trial:
        began = time.perf_counter()
        try:
            return perform(
                job,
                self._benches.for_job(job, assignment),
                self._folder.of(job.id),
                lengths=assignment.lengths,
                evaluations=assignment.evaluations,
                keep_adapter=assignment.keep_adapters,
                trunk=self._folder.trunk,
                listeners=[StepsOf(job, self._watcher)],
            )
        except Exception as error:
            logger.debug("trial %s ended with an error", job.id, exc_info=True)
            trial = ended_with(job, error, seconds=time.perf_counter() - began)
        self._tidy(job)
        return trial

    def _tidy(self, job: Job) -> None:
        """Remove what a trial that failed has left; what it held is free again."""
        shutil.rmtree(self._folder.of(job.id) / ADAPTER, ignore_errors=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads in the block."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def _unfit(order: Order) -> Trial | None:
    """Return the record of a trial that cannot work, without starting it."""
    job = order.job
    if order.refused is not None:
        return job.record("refused", reason=order.refused)
    there = machine.memory(pick_device(str(job.keys["device"])))
    if order.least_memory <= there:
        return None
    return job.record(
        "out_of_memory",
        reason=f"it would need {order.least_memory / 2**30:,.1f} GiB at the least, and there are"
        f" {there / 2**30:,.1f} GiB; it was not started",
    )
