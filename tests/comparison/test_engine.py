from collections.abc import Callable
from pathlib import Path

import pytest

from petune.comparison.assignment import Assignment, Assignments
from petune.comparison.engine import InlineEngine
from petune.comparison.folder import Folder
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.comparison.unit import Unit
from petune.comparison.unit_runner import UnitRunner
from petune.comparison.watching import Unwatched


def test_units_run_in_their_order(track: Callable[..., Track], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: UnitRunner, assignment: Assignment) -> list[Trial]:
        return [order.job.record("failed", reason="made up") for order in assignment.orders]

    monkeypatch.setattr(UnitRunner, "run", run)
    found = track(seeds=[1, 2, 3])
    first, second, third = found.final_jobs(found.candidates[0])
    engine = InlineEngine(Assignments([found]), Folder(tmp_path / "out"), Unwatched())
    trials = list(engine.run([Unit((third, first)), Unit((second,))]))
    assert [trial.id for trial in trials] == [third.id, first.id, second.id]
    engine.close()
