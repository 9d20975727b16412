from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.comparison import machine
from petune.comparison import unit_runner as module
from petune.comparison.assignment import Assignment, Assignments
from petune.comparison.folder import Folder
from petune.comparison.plan import Track
from petune.comparison.unit import Unit
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.watching import Unwatched
from petune.errors import Interrupted, OutputFolderError, PetuneError, ResourceError


@pytest.fixture
def runner_for(track: Callable[..., Track], tmp_path: Path) -> Callable[..., tuple[UnitRunner, Track]]:
    """Make a runner for one method on the tiny base."""

    def make(method: str = "lora", **changes: Any) -> tuple[UnitRunner, Track]:
        found = track(methods=[method], **changes)
        return UnitRunner(Folder(tmp_path / "out"), Unwatched()), found

    return make


def final(track: Track) -> Assignment:
    return Assignments([track]).of(Unit(tuple(track.final_jobs(track.candidates[0]))))


def search(track: Track) -> Assignment:
    return Assignments([track]).of(Unit(tuple(track.search_jobs(0, track.candidates))))


def test_a_trial_that_cannot_work_is_not_started(
    runner_for: Callable[..., tuple[UnitRunner, Track]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "perform", lambda *_, **__: pytest.fail("it was started"))
    runner, track = runner_for("bitfit")
    (trial,) = runner.run(final(track))
    assert trial.status == "refused"
    assert "no biases" in str(trial.reason)
    monkeypatch.setattr(machine, "memory", lambda device: 1000)
    runner, track = runner_for("full")
    (trial,) = runner.run(final(track))
    assert trial.status == "out_of_memory"
    assert "it would need 0.0 GiB at the least, and there are 0.0 GiB; it was not started" in str(trial.reason)


def test_a_failure_is_a_record_and_leaves_nothing(
    runner_for: Callable[..., tuple[UnitRunner, Track]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(job: Any, bench: Any, folder: Path, **_: Any) -> None:
        (folder / "adapter").mkdir(parents=True)
        raise RuntimeError("something\nbroke")

    monkeypatch.setattr(module, "perform", fail)
    runner, track = runner_for()
    (trial,) = runner.run(final(track))
    assert (trial.status, trial.reason) == ("failed", "RuntimeError: something broke")
    assert not list((tmp_path / "out").rglob("adapter"))
    assert trial.command.startswith("petune train ")


ENDS = [Interrupted("stop", 2), OutputFolderError("read-only"), ResourceError("disk full")]


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("unit", [final, search])
def test_what_ends_everything(
    unit: Callable[[Track], Assignment],
    error: PetuneError,
    runner_for: Callable[..., tuple[UnitRunner, Track]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, "perform", fail)
    monkeypatch.setattr(module, "perform_together", fail)
    runner, track = runner_for(rate_factors=[1, 3])
    with pytest.raises(type(error), match=str(error)):
        list(runner.run(unit(track)))


def test_a_pass_that_fails_is_run_one_by_one(
    runner_for: Callable[..., tuple[UnitRunner, Track]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(jobs: Any, bench: Any, folder_of: Callable[[str], Path], **_: Any) -> Any:
        (folder_of(jobs[1].id) / "adapter" / "checkpoint-1").mkdir(parents=True)
        yield jobs[0], jobs[0].record("done")
        raise MemoryError

    monkeypatch.setattr(module, "perform_together", fail)
    runner, track = runner_for(rate_factors=[1, 3, 10])
    unit = search(track)
    trials = list(runner.run(unit))
    assert [trial.id for trial in trials] == [order.job.id for order in unit.orders]
    assert [(trial.status, trial.trials_in_pass) for trial in trials] == [("done", 1)] * 3
    assert all(trial.curve for trial in trials[1:])
    assert "2 trials run one by one, because their shared pass ended with" in caplog.text


def test_threads_are_those_of_the_assignment(
    runner_for: Callable[..., tuple[UnitRunner, Track]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(*_: Any, **__: Any) -> None:
        seen.append(torch.get_num_threads())
        raise RuntimeError("enough")

    before = torch.get_num_threads()
    monkeypatch.setattr(module, "perform", note)
    runner, track = runner_for(cpus_per_trial=before + 1)
    list(runner.run(final(track)))
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
