"""The trials of a comparison, and what becomes of an engine that is left early."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import pytest

from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.comparison.study import Study
from petune.comparison.unit import Unit
from petune.comparison.watching import Progress, Unwatched


class Recording:
    """An engine whose trials all end well; it notes when it is left."""

    tracks_at_once = 1
    trials_at_once = 1

    def __init__(self) -> None:
        self.left = 0

    def run(self, units: Sequence[Unit]) -> Generator[Trial]:
        try:
            for unit in units:
                for job in unit.jobs:
                    yield job.record("done", development={"accuracy": 0.5})
        finally:
            self.left += 1

    def close(self) -> None:
        raise AssertionError("closing it is the comparison's business")


class Failing(Recording):
    """An engine where some trials of the first round fail."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self._failing = failing

    def run(self, units: Sequence[Unit]) -> Generator[Trial]:
        jobs = [job for unit in units for job in unit.jobs]
        first = [job.id for job in jobs if job.rung == 0][: self._failing]
        for job in jobs:
            bad = job.id in first
            yield job.record("failed", reason="broken") if bad else job.record("done", development={"accuracy": 0.5})


class StopAtOnce(Unwatched):
    """Stops when the first trial has ended."""

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        raise KeyboardInterrupt


def study_of(track: Track, engine: Recording, watcher: Unwatched, folder: Path) -> Study:
    progress = Progress([track], speed=1e9)
    return Study(Folder(folder), engine, watcher, progress, retry=False, share=True)


def test_the_best_of_a_search_goes_on(track: Callable[..., Track], tmp_path: Path) -> None:
    found, engine = track(rate_factors=[1, 3], seeds=[1, 2], metric="accuracy"), Recording()
    study = study_of(found, engine, Unwatched(), tmp_path / "out")
    study.run([found])
    assert [(trial.stage, trial.seed) for trial in study.trials.values()] == [
        ("search", 1), ("search", 1), ("final", 1), ("final", 2),
    ]  # fmt: skip
    assert study.complete
    assert engine.left == 2  # once for the search, once for the final trials


@pytest.mark.parametrize(
    ("figures", "chosen"),
    [((0.4, 0.9, 0.5, 0.95), {"r": 32, "lora_alpha": 64.0}), ((0.4, 0.9, 0.9, 0.1), {}), ((0.9, 0.4, None, None), {})],
)
def test_other_settings_are_held_against_what_was_found(
    figures: tuple[float | None, ...], chosen: dict[str, float], track: Callable[..., Track], tmp_path: Path
) -> None:
    class Measured(Recording):
        def run(self, units: Sequence[Unit]) -> Generator[Trial]:
            for job in (job for unit in units for job in unit.jobs):
                figure = next(left, 0.5)
                bad = job.record("failed", reason="broken")
                yield bad if figure is None else job.record("done", development={"accuracy": figure})

    found, left = track(rate_factors=[1, 3], metric="accuracy", search_settings=True), iter(figures)
    study = study_of(found, Measured(), Unwatched(), tmp_path / "out")
    study.run([found])
    (*_, final) = study.trials.values()
    rate = max(found.candidates[:2], key=lambda own: figures[found.candidates.index(own)] or 0)
    assert (final.stage, final.settings) == ("final", {**rate, **chosen})
    assert (study.progress.trials, study.progress.ended) == (5, 5)
    again = recalled(found, tmp_path / "out", retry=False)
    assert (again.trials, again.ended) == (5, 5)


def test_where_no_rate_is_found_no_other_settings_are_waited_for(track: Callable[..., Track], tmp_path: Path) -> None:
    found = track(rate_factors=[1, 3], metric="accuracy", search_settings=True)
    study = study_of(found, Failing(2), Unwatched(), tmp_path / "out")
    study.run([found])
    assert (study.progress.trials, study.progress.ended) == (2, 2)
    assert study.progress.seconds_left == pytest.approx(0, abs=1e-9)
    one = study_of(found, Failing(1), Unwatched(), tmp_path / "other")
    one.run([found])
    assert (one.progress.trials, one.progress.ended) == (5, 5)


def test_an_engine_that_is_left_early_lets_go_at_once(track: Callable[..., Track], tmp_path: Path) -> None:
    found, engine = track(rate_factors=[1, 3]), Recording()
    with pytest.raises(KeyboardInterrupt) as stopped:
        study_of(found, engine, StopAtOnce(), tmp_path / "out").run([found])
    assert engine.left == 1, "what the error holds on to was not let go of"
    assert stopped.value is not None


@pytest.mark.parametrize(("failing", "ended"), [(2, 7), (3, 6), (4, 4)])
def test_trials_that_no_candidate_is_left_for_are_not_waited_for(
    failing: int, ended: int, track: Callable[..., Track], tmp_path: Path
) -> None:
    found = track(rate_factors=[0.3, 1, 3, 10], reduction=2, metric="accuracy")
    assert [rung.candidates for rung in found.rungs] == [4, 2]
    study = study_of(found, Failing(failing), Unwatched(), tmp_path / "out")
    study.run([found])
    assert (study.progress.trials, study.progress.ended) == (ended, ended)
    assert study.progress.seconds_left == pytest.approx(0, abs=1e-9)
    later = recalled(found, tmp_path / "out", retry=False)
    assert (later.trials, later.ended) == (ended, ended)
    assert recalled(found, tmp_path / "out", retry=True).trials == 7, "what failed runs again, and what comes of it"


def recalled(track: Track, folder: Path, *, retry: bool) -> Progress:
    """Return how far a comparison has come by its folder alone."""
    progress = Progress([track], speed=1e9)
    Study(Folder(folder), None, Unwatched(), progress, retry=retry, share=True).recall([track])
    return progress


def test_a_round_that_is_known_in_part_says_nothing_of_later_ones(track: Callable[..., Track], tmp_path: Path) -> None:
    found = track(rate_factors=[0.3, 1, 3, 10], reduction=2, metric="accuracy")
    for job in found.search_jobs(0, found.candidates[:3]):
        Folder(tmp_path / "out").save(job.record("failed", reason="broken"))
    progress = recalled(found, tmp_path / "out", retry=False)
    assert (progress.trials, progress.ended) == (7, 3)


def test_what_no_candidate_is_left_for_is_left_out_once(track: Callable[..., Track], tmp_path: Path) -> None:
    class Stop(Unwatched):
        def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
            if trial.stage == "final":
                raise KeyboardInterrupt

    found = track(rate_factors=[0.3, 1, 3, 10], reduction=2, metric="accuracy")
    study = study_of(found, Failing(4), Stop(), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        study.run([found])
    assert (study.progress.trials, study.progress.ended) == (4, 4)


@pytest.mark.parametrize("greater", [None, False])
def test_what_is_best_by_a_metric_of_one_s_own(
    greater: bool | None, track: Callable[..., Track], tmp_path: Path
) -> None:
    class Measured(Recording):
        def run(self, units: Sequence[Unit]) -> Generator[Trial]:
            for number, job in enumerate(job for unit in units for job in unit.jobs):
                yield job.record("done", development={"errors": float(number)})

    (tmp_path / "own.py").write_text("def errors(predictions, references):\n    return 1.0\n", encoding="utf-8")
    found = track(rate_factors=[1, 3, 10], metric=f"{tmp_path}/own.py:errors", greater_is_better=greater)
    study = study_of(found, Measured(), Unwatched(), tmp_path / "out")
    study.run([found])
    *_, final = study.trials.values()
    assert final.settings == found.candidates[0 if greater is False else 2]
    assert final.higher_is_better == (greater is not False)
