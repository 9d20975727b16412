import math
from typing import Any

import pytest

from petune.comparison.record import Budget, Trial
from petune.comparison.search import best, rungs


def trial(name: str, development: dict[str, float], **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "id": name, "base": "b", "method": "m", "settings": {"name": name}, "seed": 1, "stage": "search", "rung": 0,
        "budget": Budget(unit="steps", amount=1), "status": "done", "metric": "accuracy", "higher_is_better": True,
        "development": development, "command": "petune train",
    }  # fmt: skip
    return Trial(**{**values, **changes})


def names(chosen: list[dict[str, Any]]) -> list[str]:
    return [settings["name"] for settings in chosen]


@pytest.mark.parametrize(
    ("candidates", "reduction", "shape"),
    [
        (1, 3, []),
        (3, 3, [(3, 1 / 3)]),
        (4, 3, [(4, 1 / 9), (2, 1 / 3)]),
        (9, 3, [(9, 1 / 9), (3, 1 / 3)]),
        (8, 2, [(8, 1 / 8), (4, 1 / 4), (2, 1 / 2)]),
    ],
)
def test_rounds(candidates: int, reduction: int, shape: list[tuple[int, float]]) -> None:
    found = rungs(candidates, reduction)
    assert [(rung.candidates, pytest.approx(rung.share)) for rung in found] == shape


def test_variations_come_last_with_the_share_of_what_they_vary() -> None:
    (*before, last) = rungs(4, 3, variations=5)
    assert tuple(before) == rungs(4, 3)
    assert (last.candidates, last.share, last.varied, last.entering) == (5, before[-1].share, True, 1)
    assert [rung.entering for rung in before] == [4, 2]
    assert rungs(1, 3, variations=5) == (), "what is not searched is not varied"


def test_no_round_costs_more_than_the_next_could() -> None:
    for candidates in range(2, 30):
        for rung in rungs(candidates, 3):
            assert rung.candidates * rung.share <= 1 + rung.share * 3


def test_the_best_by_metric_then_by_loss_then_by_order() -> None:
    trials = [
        trial("worse", {"accuracy": 0.5, "loss": 0.1}),
        trial("late", {"accuracy": 0.9, "loss": 0.5}),
        trial("first", {"accuracy": 0.9, "loss": 0.4}),
        trial("again", {"accuracy": 0.9, "loss": 0.5}),
    ]
    assert names(best(trials, 4)) == ["first", "late", "again", "worse"]
    assert names(best(trials, 1)) == ["first"]


def test_a_low_loss_is_better() -> None:
    trials = [trial(n, {"loss": x}, metric="loss", higher_is_better=False) for n, x in (("a", 2.0), ("b", 1.0))]
    assert names(best(trials, 1)) == ["b"]


def test_what_failed_or_is_no_number_does_not_go_on() -> None:
    trials = [
        trial("failed", {}, status="failed", reason="diverged"),
        trial("nan", {"accuracy": math.nan, "loss": 1.0}),
        trial("good", {"accuracy": 0.1, "loss": math.nan}),
    ]
    assert names(best(trials, 3)) == ["good"]
    assert best(trials[:1], 1) == []
