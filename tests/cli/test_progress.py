import io

import pytest
from rich.console import Console

from petune.cli import progress
from petune.cli.progress import ProgressBar
from petune.training.events import Evaluated, Plan, Step


def step(number: int) -> Step:
    return Step(
        step=number,
        epoch=0.5,
        loss=1.25,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens=100,
        tokens_per_second=2000.0,
        seconds=0.05,
        memory=3 * 2**20,
    )


def follow(bar: ProgressBar, steps: int) -> None:
    bar.started(Plan(total_steps=steps, first_step=0, parameters="trainable params: 1"))
    for number in range(1, steps + 1):
        bar.stepped(step(number))
    bar.evaluated(Evaluated(steps, 1.0, {"loss": 1.5}, best=True))
    bar.ended()


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    follow(ProgressBar(every=2), 5)
    figures = "loss 1.2500  2,000 tokens/s  3 MiB"
    assert capsys.readouterr().err.splitlines() == [
        "trainable params: 1",
        f"step 2/5  {figures}",
        f"step 4/5  {figures}",
        f"step 5/5  {figures}",
        "validation at step 5: loss 1.5000  (best)",
    ]


def test_a_resumed_run_says_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.started(Plan(total_steps=8, first_step=3, parameters="trainable params: 1"))
    assert capsys.readouterr().err == "trainable params: 1\ngoing on from step 3\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **options: Console(file=screen, force_terminal=True, width=80))
    follow(ProgressBar(), 3)
    shown = screen.getvalue()
    for part in ("step 3/3", "loss 1.2500", "2,000 tokens/s", "3 MiB", "left", "validation at step 3"):
        assert part in shown


def test_several_runs_share_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        options = {"file": screen, "force_terminal": terminal, "width": 80}
        monkeypatch.setattr(progress, "Console", lambda options=options, **_: Console(**options))
        shared = progress.Screen()
        bars = [ProgressBar(every=1, name=name, screen=shared) for name in ("a", "[b]")]
        for bar in bars:
            bar.started(Plan(total_steps=2, first_step=0, parameters="trainable params: 1"))
        for bar in bars:
            bar.stepped(step(1))
        bars[0].ended()
        bars[1].stepped(step(2))
        bars[1].ended()
        bars[1].ended()
        for part in ("a: trainable params: 1", "[b]: step 2/2", "a: step 1/2"):
            assert part in screen.getvalue()
