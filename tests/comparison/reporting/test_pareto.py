"""The Pareto front, against its definition."""

import random

import pytest

from petune.comparison.reporting.pareto import front


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_front_is_what_nothing_beats(higher_is_better: bool) -> None:
    sign = 1 if higher_is_better else -1
    for seed in range(50):
        source = random.Random(seed)
        points = [(source.randint(0, 20) + n / 100, source.random()) for n in range(12)]
        beaten = {
            n
            for n, (cost, quality) in enumerate(points)
            if any(c <= cost and sign * q >= sign * quality for m, (c, q) in enumerate(points) if m != n)
        }
        found = front(points, higher_is_better=higher_is_better)
        assert set(found) == set(range(len(points))) - beaten
        assert [points[n][0] for n in found] == sorted(points[n][0] for n in found)


def test_of_equal_points_one_is_on_the_front() -> None:
    assert front([(1.0, 0.5), (1.0, 0.5), (2.0, 0.5)], higher_is_better=True) == [0]
