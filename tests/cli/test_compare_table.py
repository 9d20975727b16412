import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from petune.cli.compare_table import LiveTable, PlainLines, base_names, duration, print_comparison
from petune.comparison.job import Job, Measures
from petune.comparison.record import Budget, Comparison, Stage, Trial
from petune.comparison.watching import Progress


def job(stage: Stage, rate: float, seed: int = 1) -> Job:
    return Job(
        entry="lora r=4", stage=stage, rung=0 if stage == "search" else None, budget=Budget(unit="steps", amount=1),
        settings={"learning_rate": rate},
        keys={"model": "some/base", "method": "lora", "seed": seed, "learning_rate": rate},
        measures=Measures(metric="accuracy", max_new_tokens=1), rows=("x",),
    )  # fmt: skip


def done(job: Job, value: float) -> Trial:
    part = "development" if job.stage == "search" else "test"
    return job.record("done", wall_seconds=2.0, **{part: {"accuracy": value}})


@pytest.fixture
def jobs() -> list[Job]:
    """Two trials of a search, two final ones."""
    return [job("search", 1e-3), job("search", 1e-2), job("final", 1e-2), job("final", 1e-2, seed=2)]


def track(jobs: list[Job]) -> Any:
    """What there is to know of one method; each trial takes ten seconds at a speed of 0.1."""
    return SimpleNamespace(
        survey=SimpleNamespace(name="some/base"), entry=SimpleNamespace(label="lora r=4"), rungs=(1,), refusal=None,
        expected=lambda: jobs, cost=lambda job: SimpleNamespace(seconds=None, multiplications=1.0),
    )  # fmt: skip


@pytest.fixture
def table(jobs: list[Job]) -> tuple[LiveTable, io.StringIO, Progress]:
    """A table on a made-up terminal, where it is written, and the progress it shows."""
    written = io.StringIO()
    shown = LiveTable(Console(file=written, force_terminal=True, width=120))
    progress = Progress([track(jobs)], speed=0.1)
    shown.planned([track(jobs)], progress)
    return shown, written, progress


def text(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as capture:
        console.print(table.render())
    return capture.get()


def test_the_table_follows(table: tuple[LiveTable, io.StringIO, Progress], jobs: list[Job]) -> None:
    shown, written, progress = table
    assert "0 of 4 trials" in text(shown)
    shown.began(jobs[0])
    shown.stepped(jobs[0], 3, 9)
    assert "search, round 1 of 1" in text(shown)
    assert "lora learning_rate=0.001 seed 1: step 3 of 9" in text(shown)
    for own, value in zip(jobs, (0.5, 0.75, 0.6, 0.7), strict=True):
        trial = done(own, value)
        progress.note(own, trial)
        shown.ended(own, trial, reused=False)
        if own.seed == 1 and own.stage == "search":
            assert f"{value:.4f}" in text(shown)
    row = next(line for line in text(shown).splitlines() if "lora r=4" in line)
    assert "base  lora r=4  done   learning_rate=0.01  0.7500       0.6500 ± 0.0707" in row
    assert "4 of 4 trials" in text(shown)
    shown.closed()
    assert "0.6500 ± 0.0707" in written.getvalue()
    shown.closed()  # twice is once


def test_a_figure_that_is_no_number_gives_way(table: tuple[LiveTable, io.StringIO, Progress], jobs: list[Job]) -> None:
    for own, value in zip(jobs[:2], (float("nan"), 0.5), strict=True):
        table[0].ended(own, done(own, value), reused=False)
    assert "learning_rate=0.01  0.5000" in text(table[0])


def test_time_left_goes_down_while_a_trial_runs(
    table: tuple[LiveTable, io.StringIO, Progress], jobs: list[Job]
) -> None:
    shown, _, _ = table
    assert "40 s left" in text(shown)
    shown.stepped(jobs[0], 3, 6)
    assert "35 s left" in text(shown)
    shown.closed()


def test_a_long_trial_has_a_line_each_minute(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr("petune.cli.compare_table.time", SimpleNamespace(monotonic=lambda: next(clock)))
    plain = PlainLines()
    plain.planned([], Progress([track(jobs)], speed=0.1))
    for step in (1, 2, 3):
        plain.stepped(jobs[0], step, 4)
    told = capsys.readouterr().err.splitlines()
    assert told == ["4 trials; about 40 s", "lora  seed 1  learning_rate=0.001  step 2 of 4  (35 s left)"]


def test_what_is_measured_stands_there_until_the_table_comes(capsys: pytest.CaptureFixture[str]) -> None:
    written = io.StringIO()
    shown = LiveTable(Console(file=written, force_terminal=True, width=120))
    for watcher in (shown, PlainLines()):
        watcher.measuring(track([]), 1, 2)
        watcher.closed()
    said = "for the estimates: lora r=4 on base, 1 of 2"
    assert said in written.getvalue()
    assert written.getvalue().endswith("\x1b[2K"), "the line is taken back"
    assert said in capsys.readouterr().err


def test_a_worse_rate_does_not_take_the_place_of_a_better(
    table: tuple[LiveTable, io.StringIO, Progress], jobs: list[Job]
) -> None:
    shown, _, _ = table
    shown.ended(jobs[1], done(jobs[1], 0.75), reused=False)
    shown.ended(jobs[0], done(jobs[0], 0.5), reused=False)
    assert "learning_rate=0.01  0.7500" in text(shown)
    shown.closed()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (89, "89 s"), (150, "2 min"), (5300, "88 min"), (12000, "3 h 20 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_the_end(jobs: list[Job], capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    failed = job("final", 1e-2, seed=3).record("failed", reason="the loss is nan")
    trials = [done(jobs[0], 0.5), done(jobs[2], 0.6), done(jobs[3], 0.7), failed]
    comparison = Comparison(
        recipe={}, command="petune compare", created="now", machine={}, petune_version="0", data={}, trials=trials
    )
    print_comparison(comparison, tmp_path)
    printed = capsys.readouterr().out
    assert "base  lora    learning_rate=0.01  0.6500 ± 0.0707  2" in printed
    assert "lora on base, seed 3: failed: the loss is nan" in printed
    assert f"report: {tmp_path / 'report.html'}" in printed


def test_entries_with_the_same_settings_stand_in_lines_of_their_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    rated = job("final", 1e-2).model_copy(update={"entry": "lora learning_rate=0.01"})
    trials = [done(job("final", 1e-2), 0.6), done(rated, 0.7)]
    comparison = Comparison(
        recipe={}, command="petune compare", created="now", machine={}, petune_version="0", data={}, trials=trials
    )
    print_comparison(comparison, tmp_path)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "base lora (entry lora r=4) learning_rate=0.01 0.6000 1" in lines
    assert "base lora (entry lora learning_rate=0.01) learning_rate=0.01 0.7000 1" in lines


def test_bases_that_end_alike_have_their_whole_names(
    jobs: list[Job], capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    assert base_names(["a/one", "a/two", "b/two", "a/two"]) == {"a/one": "one", "a/two": "a/two", "b/two": "b/two"}
    others = [own.model_copy(update={"keys": {**own.keys, "model": "other/base"}}) for own in jobs]
    tracks = [track(jobs), track(others)]
    tracks[1].survey.name = "other/base"
    progress = Progress(tracks, speed=0.1)
    shown, lines = LiveTable(Console(file=io.StringIO(), force_terminal=True, width=120)), PlainLines()
    for watcher in (shown, lines):
        watcher.planned(tracks, progress)
    lines.ended(others[2], done(others[2], 0.5), reused=False)
    assert "  other/base  lora  final" in capsys.readouterr().err
    assert "some/base   lora r=4" in text(shown)
    shown.closed()
    trials = [done(own, 0.5) for own in (jobs[2], others[2])]
    comparison = Comparison(
        recipe={}, command="petune compare", created="now", machine={}, petune_version="0", data={}, trials=trials
    )
    print_comparison(comparison, tmp_path)
    assert "\nother/base  lora" in capsys.readouterr().out
