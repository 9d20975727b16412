from collections.abc import Callable
from typing import Any

import pytest

from petune.comparison.record import Comparison, CurvePoint, Trial
from petune.comparison.reporting.sections import report_of
from petune.comparison.reporting.sharing import sharing_of

MakeTrial = Callable[..., Trial]


@pytest.fixture
def searched(make_trial: MakeTrial) -> Callable[..., Trial]:
    """Make a trial of the search that trained on 1,000 tokens in 2 seconds."""

    def make(**fields: Any) -> Trial:
        curve = [CurvePoint(step=1, tokens=1000, seconds=2.0, train_loss=1.0)]
        return make_trial(**{"stage": "search", "rung": 0, "seconds": 2.0, "curve": curve, **fields})

    return make


def test_what_was_saved(make_trial: MakeTrial, searched: Callable[..., Trial]) -> None:
    trials = [
        *[searched(trials_in_pass=3) for _ in range(3)],
        *[searched(trials_in_pass=2, rung=1) for _ in range(2)],
        searched(),
        make_trial(tokens_per_second=200.0),
        make_trial(tokens_per_second=300.0, seed=2),
    ]
    found = sharing_of(trials)
    assert found is not None
    assert (found.trials, found.passes, found.most) == (5, 2, 3)
    assert (found.seconds, found.alone) == (10.0, 20.0)


def test_what_nobody_tells_is_not_told(make_trial: MakeTrial, searched: Callable[..., Trial]) -> None:
    assert sharing_of([searched(), make_trial(tokens_per_second=1.0)]) is None
    shared = [searched(trials_in_pass=2), searched(trials_in_pass=2, status="failed", reason="nan", seconds=None)]
    found = sharing_of([*shared, make_trial("ia3", tokens_per_second=200.0)])
    assert found is not None
    assert (found.trials, found.passes, found.alone) == (2, 1, None)


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (100.0, "would have taken about 20.0 s in place of 4.0 s: sharing saved 16.0 s."),
        (1000.0, "would have taken about 2.0 s in place of 4.0 s: sharing cost 2.0 s."),
        (None, "Final trials trained alone, so their time, speed and memory are their own."),
    ],
)
def test_the_report_tells(
    speed: float | None,
    said: str,
    make_trial: MakeTrial,
    searched: Callable[..., Trial],
    make_comparison_of: Callable[..., Comparison],
) -> None:
    shared = [searched(trials_in_pass=2, id=f"s{i}") for i in range(2)]
    report = report_of(make_comparison_of(*shared, make_trial(scores=[1.0], tokens_per_second=speed)))
    summary = report.search_summary.replace("\N{NO-BREAK SPACE}", " ")
    assert "2 of the short trials shared 1 pass over their base, up to 2 at a time" in summary
    assert summary.endswith(said)


def test_without_sharing_nothing_is_said(
    make_trial: MakeTrial, searched: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    assert "shared" not in report_of(make_comparison_of(searched(), make_trial(scores=[1.0]))).search_summary
