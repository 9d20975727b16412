"""Axes of charts."""

from itertools import pairwise

import pytest

from petune.comparison.reporting.scales import ZERO_ROOM, Scale, linear, scale_of


def test_a_linear_axis_is_even() -> None:
    scale = Scale(0, 10, 100, 200)
    assert [scale.place(value) for value in (0, 5, 10)] == [100, 150, 200]
    assert [scale.place(value) for value in (-5, 50)] == [100, 200]


def test_an_axis_may_run_upwards() -> None:
    assert Scale(0, 10, 200, 100).place(2.5) == 175


def test_a_logarithmic_axis_is_even_in_factors() -> None:
    scale = Scale(1, 100, 0, 200, logarithmic=True)
    assert [scale.place(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])


def test_zero_has_its_own_place_on_a_logarithmic_axis() -> None:
    scale = scale_of([0, 1e3, 1e6], 0, 200)
    assert scale.logarithmic
    assert scale.place(0) == 0
    assert scale.place(1e3) > ZERO_ROOM
    assert scale.ticks()[0] == 0


@pytest.mark.parametrize(
    ("values", "logarithmic"), [([1, 9], False), ([1, 10], True), ([-1, 100], False), ([0, 0], False), ([], False)]
)
def test_an_axis_is_logarithmic_where_values_differ_tenfold(values: list[float], logarithmic: bool) -> None:
    assert scale_of(values, 0, 100).logarithmic is logarithmic


@pytest.mark.parametrize("low", [0.0, -0.31, 17.0, 0.98])
@pytest.mark.parametrize("width", [0.004, 1.0, 73.0, 1e6])
def test_ticks_are_round_few_and_on_the_axis(low: float, width: float) -> None:
    ticks = Scale(low, low + width, 0, 100).ticks(5)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-9 <= value <= low + width + 1e-9 for value in ticks)
    steps = {round((after - before) / width, 6) for before, after in pairwise(ticks)}
    assert len(steps) <= 1


def test_ticks_of_factors_are_powers_of_ten_or_few_between() -> None:
    assert Scale(1, 100, 0, 1, logarithmic=True).ticks(7) == [1, 2, 5, 10, 20, 50, 100]
    assert Scale(1e3, 1e9, 0, 1, logarithmic=True).ticks(4) == [1e3, 1e5, 1e7, 1e9]


def test_equal_values_still_make_an_axis() -> None:
    scale = linear([0.5, 0.5], 0, 100)
    assert scale.place(0.5) == pytest.approx(50)
    assert linear([float("inf")], 0, 1).low < linear([float("inf")], 0, 1).high
