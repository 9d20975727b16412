"""The trials of an assignment in the process at hand, and how they ended."""

import gc
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch

from petune.backbone.precision import pick_device
from petune.comparison import machine
from petune.comparison.assignment import Assignment, Order
from petune.comparison.bench import Benches
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.measure import ADAPTER, perform
from petune.comparison.record import Status, Trial
from petune.comparison.watching import StepsOf, Watcher
from petune.errors import InputError, Interrupted, MissingExtraError, OutputFolderError, PetuneError, ResourceError

logger = logging.getLogger("petune")

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@final
class Workbench:
    """Runs trials one after another in this process, all trials of a base on one copy of it.

    Args:
        folder: the comparison's.
        watcher: told of what happens.
    """

    def __init__(self, folder: Folder, watcher: Watcher) -> None:
        self._folder = folder
        self._watcher = watcher
        self._benches = Benches()

    def run(self, assignment: Assignment) -> Iterator[Trial]:
        """Yield the record of each trial, in their order.

        Raises:
            Interrupted, KeyboardInterrupt: it was asked to stop.
            OutputFolderError, ResourceError: nothing can be written any more.
        """
        with _threads(assignment.threads):
            for order in assignment.orders:
                self._watcher.began(order.job)
                yield _unfit(order) or self._run(order.job, assignment)

    def close(self) -> None:
        """Let go of the base."""
        self._benches.release()

    def _run(self, job: Job, assignment: Assignment) -> Trial:
        try:
            return perform(
                job,
                self._benches.for_job(job, assignment),
                self._folder.of(job.id),
                lengths=assignment.lengths,
                evaluations=assignment.evaluations,
                keep_adapter=assignment.keep_adapters,
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
