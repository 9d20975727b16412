"""Speed, memory and their ratios, from made-up reports."""

import pytest
from race.speed import figures, summarise
from race.spread import Spread
from race.table import render, speed_rows


def timing(side: str, repeat: int, tokens_per_second: float, peak: float) -> dict[str, object]:
    return {
        "side": side,
        "repeat": repeat,
        "tokens_per_second": tokens_per_second,
        "peak_memory": peak,
        "memory_of_steps": peak / 2,
    }


def test_the_warm_up_does_not_count() -> None:
    report = {
        "ends": [0.0, 10.0, 12.0, 16.0],
        "tokens": [1000, 30, 50],
        "peak": 900,
        "resident_before_steps": 300,
        "peak_before_steps": 400,
    }
    found = figures(report, warm_up_steps=1)
    assert found["tokens"] == 80
    assert found["tokens_per_second"] == pytest.approx(80 / 6)
    assert found["memory_of_steps"] == 600


def test_ratios_are_of_the_same_repeat() -> None:
    # The machine is ten times slower in the second repeat; the ratio is 2 in both.
    timings = [
        timing("petune", 0, 200, 600),
        timing("same-order", 0, 100, 1000),
        timing("petune", 1, 20, 600),
        timing("same-order", 1, 10, 1000),
    ]
    summary = summarise(timings)
    assert summary["same-order"]["tokens_per_second_ratio"] == Spread(2, 2, 2)
    assert summary["same-order"]["peak_memory_ratio"] == Spread(0.6, 0.6, 0.6)


@pytest.mark.parametrize(("speed", "peak", "met"), [(151, 799, [True, True]), (149, 801, [False, False])])
def test_bars(speed: float, peak: float, met: list[bool]) -> None:
    rows = speed_rows([timing("petune", 0, speed, peak), timing("same-order", 0, 100, 1000)])
    assert [row.met for row in rows if row.bar] == met
    assert ("MISSED" in render(rows)) is not all(met)


def test_other_manners_are_told_and_not_judged() -> None:
    rows = speed_rows([timing("petune", 0, 90, 1000), timing("default", 0, 100, 1000)])
    assert len(rows) == 3
    assert all(row.met is None for row in rows)


def test_spread() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread(3.0, 2.0, 4.0).text(".1f") == "3.0 (2.0 to 4.0)"
