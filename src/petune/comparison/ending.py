"""How a trial ended that raised an error."""

from petune.comparison.job import Job
from petune.comparison.record import Status, Trial
from petune.errors import (
    InputError,
    Interrupted,
    MetricError,
    MissingExtraError,
    OutputFolderError,
    PetuneError,
    ResourceError,
    is_out_of_memory,
)


def status_of(error: Exception) -> Status | None:
    """Return how a trial ended that raised ``error``; None where no other trial could do better."""
    if isinstance(error, Interrupted | OutputFolderError | MetricError):
        return None
    if is_out_of_memory(error):
        return "out_of_memory"
    if isinstance(error, ResourceError) and not isinstance(error, MissingExtraError):
        return None
    return "refused" if isinstance(error, InputError) else "failed"


def ended_with(job: Job, error: Exception, *, seconds: float) -> Trial:
    """Return the record of a trial that ``error`` has ended after so many seconds.

    Raises:
        Exception: the error itself, where it ends everything.
    """
    status = status_of(error)
    if status is None:
        raise error
    reason = str(error) if isinstance(error, PetuneError) else f"{type(error).__name__}: {error}"
    return job.record(status, reason=" ".join(reason.split()) or "no reason was given", wall_seconds=seconds)
