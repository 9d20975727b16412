from types import SimpleNamespace
from typing import Any

import pytest

from petune.comparison.job import Job, Measures
from petune.comparison.record import Budget, Trial
from petune.comparison.watching import Progress, StepsOf, Unwatched
from petune.training.events import Plan, Step


def job(seed: int) -> Job:
    return Job(
        entry="m", stage="final", rung=None, budget=Budget(unit="steps", amount=1), settings={},
        keys={"model": "b", "method": "lora", "seed": seed}, measures=Measures(metric="loss", max_new_tokens=1),
        rows=("x",),
    )  # fmt: skip


def track(jobs: list[Job], costs: dict[int, float], refusal: str | None = None) -> Any:
    return SimpleNamespace(
        survey=SimpleNamespace(name="b"),
        entry=SimpleNamespace(label="m"),
        refusal=refusal,
        expected=lambda: jobs,
        cost=lambda job: SimpleNamespace(seconds=None, multiplications=costs[job.seed]),
    )


def ended(job: Job, wall: float | None) -> Trial:
    return job.record("done", wall_seconds=wall) if wall else job.record("failed", reason="broken")


def test_time_left_follows_what_trials_took() -> None:
    jobs = [job(1), job(2), job(3)]
    progress = Progress([track(jobs, {1: 100.0, 2: 200.0, 3: 300.0})], speed=10.0)
    assert (progress.trials, progress.seconds_left) == (3, 60.0)
    progress.note(jobs[0], ended(jobs[0], 30.0))  # three times the estimate of 10 s
    assert (progress.ended, progress.seconds_left) == (1, pytest.approx(150.0))
    progress.note(jobs[1], ended(jobs[1], None))  # what failed says nothing of the pace
    assert progress.seconds_left == pytest.approx(90.0)
    assert progress.seconds_left_while({jobs[2].id: (jobs[2], 0.75)}) == pytest.approx(22.5)
    assert progress.seconds_left_while({jobs[0].id: (jobs[0], 0.75)}) == pytest.approx(90.0), "it has ended"
    progress.drop([jobs[2]])
    assert (progress.trials, progress.seconds_left) == (2, 0.0)


def test_what_is_refused_does_not_come() -> None:
    assert Progress([track([job(1)], {1: 1.0}, refusal="no biases")], speed=1.0).trials == 0


def test_steps_are_passed_on() -> None:
    seen: list[tuple[int, int, int]] = []

    class Noting(Unwatched):
        def stepped(self, job: Job, step: int, total: int) -> None:
            seen.append((job.seed, step, total))

    listener = StepsOf(job(7), Noting())
    listener.started(Plan(total_steps=5, first_step=0, parameters=""))
    listener.stepped(Step(2, 0.0, 1.0, 1e-3, 1.0, tokens=1, tokens_per_second=1.0, seconds=1.0, memory=1))
    assert seen == [(7, 2, 5)]
