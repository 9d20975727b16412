from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.comparison import machine
from petune.comparison import workbench as module
from petune.comparison.assignment import Assignment
from petune.comparison.folder import Folder
from petune.comparison.watching import Unwatched
from petune.comparison.workbench import Workbench, status_of
from petune.errors import (
    ConfigError,
    DivergedError,
    Interrupted,
    MissingExtraError,
    OutputFolderError,
    PetuneError,
    ResourceError,
)

Assigned = Callable[..., Assignment]


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    return Workbench(Folder(tmp_path / "out"), Unwatched())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "out_of_memory"),
        (ResourceError("not enough memory to load"), "out_of_memory"),
        (ResourceError("no space left while writing"), None),
        (MissingExtraError("pip install"), "failed"),
        (DivergedError("the loss is nan"), "failed"),
        (RuntimeError("shapes differ"), "failed"),
        (ConfigError("not here"), "refused"),
    ],
)
def test_how_a_trial_ended(error: Exception, status: str | None) -> None:
    assert status_of(error) == status


def test_a_trial_that_cannot_work_is_not_started(
    assigned: Assigned, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "perform", lambda *_, **__: pytest.fail("it was started"))
    (trial,) = workbench.run(assigned("bitfit"))
    assert trial.status == "refused"
    assert "no biases" in str(trial.reason)
    monkeypatch.setattr(machine, "memory", lambda device: 1000)
    (trial,) = workbench.run(assigned("full"))
    assert trial.status == "out_of_memory"
    assert "it would need 0.0 GiB at the least, and there are 0.0 GiB; it was not started" in str(trial.reason)


def test_a_failure_is_a_record_and_leaves_nothing(
    assigned: Assigned, workbench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(job: Any, bench: Any, folder: Path, **_: Any) -> None:
        (folder / "adapter").mkdir(parents=True)
        raise RuntimeError("something\nbroke")

    monkeypatch.setattr(module, "perform", fail)
    (trial,) = workbench.run(assigned())
    assert (trial.status, trial.reason) == ("failed", "RuntimeError: something broke")
    assert not list((tmp_path / "out").rglob("adapter"))
    assert trial.command.startswith("petune train ")


@pytest.mark.parametrize("error", [Interrupted("stop", 2), OutputFolderError("read-only"), ResourceError("disk full")])
def test_what_ends_everything(
    error: PetuneError, assigned: Assigned, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, "perform", fail)
    with pytest.raises(type(error), match=str(error)):
        list(workbench.run(assigned()))


def test_threads_are_those_of_the_assignment(
    assigned: Assigned, workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(*_: Any, **__: Any) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("enough")

    before = torch.get_num_threads()
    monkeypatch.setattr(module, "perform", note)
    list(workbench.run(assigned(cpus_per_trial=before + 1)))
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
