from collections.abc import Callable

import pytest
import torch

from petune.comparison.ending import ended_with, status_of
from petune.comparison.plan import Track
from petune.errors import (
    ConfigError,
    DivergedError,
    Interrupted,
    MetricError,
    MissingExtraError,
    OutputFolderError,
    ResourceError,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "out_of_memory"),
        (ResourceError("not enough memory to load"), "out_of_memory"),
        (ResourceError("no space left while writing"), None),
        (Interrupted("stop", 2), None),
        (OutputFolderError("read-only"), None),
        (MetricError("no 'score'"), None),
        (MissingExtraError("pip install"), "failed"),
        (DivergedError("the loss is nan"), "failed"),
        (RuntimeError("shapes differ"), "failed"),
        (ConfigError("not here"), "refused"),
    ],
)
def test_how_a_trial_ended(error: Exception, status: str | None) -> None:
    assert status_of(error) == status


def test_the_record_of_an_error(track: Callable[..., Track]) -> None:
    found = track()
    (job,) = found.final_jobs(found.candidates[0])
    trial = ended_with(job, RuntimeError("something\nbroke"), seconds=3)
    assert (trial.id, trial.status, trial.reason) == (job.id, "failed", "RuntimeError: something broke")
    assert ended_with(job, MemoryError(), seconds=3).reason == "MemoryError:"
    assert ended_with(job, ConfigError(""), seconds=3).reason == "no reason was given"
    with pytest.raises(OutputFolderError, match="read-only"):
        ended_with(job, OutputFolderError("read-only"), seconds=3)
