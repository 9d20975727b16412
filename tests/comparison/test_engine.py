from collections.abc import Callable
from pathlib import Path

from petune.comparison.assignment import Assignments
from petune.comparison.engine import InlineEngine
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.watching import Unwatched


def test_units_run_in_their_order(make_track: Callable[..., Track], tmp_path: Path) -> None:
    began = []

    class Noting(Unwatched):
        def began(self, job: Job) -> None:
            began.append(job.id)

    track = make_track(seeds=[1, 2], keep_adapters=False)
    jobs = track.final_jobs(track.candidates[0])
    engine = InlineEngine(Assignments([track]), Folder(tmp_path / "out"), Noting())
    trials = list(engine.run([(job,) for job in jobs]))
    engine.close()
    assert [trial.id for trial in trials] == began == [job.id for job in jobs]
    assert {trial.status for trial in trials} == {"done"}
