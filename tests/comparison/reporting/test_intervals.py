"""Paired bootstrap: pairs, seeds, and intervals of the right width."""

from collections.abc import Callable

import numpy as np
import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.intervals import Difference, bootstrap, difference

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def test_one_seed_has_the_interval_of_a_mean() -> None:
    gaps = np.random.default_rng(0).normal(0.3, 1.0, size=(1, 400))
    found = bootstrap(gaps, np.zeros_like(gaps))
    assert found is not None
    error = gaps.std() / np.sqrt(gaps.size)
    assert found.mean == pytest.approx(gaps.mean())
    assert found.low == pytest.approx(gaps.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(gaps.mean() + 1.96 * error, abs=0.1 * error)


def test_rows_are_paired() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 50))
    found = bootstrap(scores + 0.25, scores)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_seeds_that_disagree_make_an_interval_wide() -> None:
    rows = np.random.default_rng(0).normal(size=(1, 300))
    shifts = np.array([[-0.5], [0.0], [0.5]])
    agreeing, disagreeing = (
        bootstrap(rows + 0 * shifts, 0 * rows + 0 * shifts),
        bootstrap(rows + shifts, 0 * shifts + 0 * rows),
    )
    assert agreeing is not None
    assert disagreeing is not None
    assert disagreeing.high - disagreeing.low > 2 * (agreeing.high - agreeing.low)


def test_the_draws_are_always_the_same() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 40))
    assert bootstrap(rows, 0 * rows) == bootstrap(rows, 0 * rows)


def test_an_infinite_score_has_no_interval() -> None:
    assert bootstrap(np.array([[1.0, np.inf]]), np.zeros((1, 2))) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-0.1, 0.1, True), (0.0, 0.1, True), (0.01, 0.1, False), (-0.2, -0.1, False)]
)
def test_noise_is_an_interval_that_holds_0(low: float, high: float, expected: bool) -> None:
    assert Difference((low + high) / 2, low, high).within_noise is expected


def test_only_common_seeds_are_compared(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    first = [make_trial("lora", seed=seed, scores=[1.0, 1.0]) for seed in (1, 2)]
    second = [make_trial("bitfit", seed=seed, scores=scores) for seed, scores in ((2, [1.0, 0.0]), (3, [0.0, 0.0]))]
    lora, bitfit = contenders_of(make_comparison_of(*first, *second))
    found = difference(bitfit, lora)
    assert found is not None
    assert found.mean == -0.5


def test_the_untrained_base_stands_against_every_seed(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    floor = make_trial("hard_prompts", seed=7, scores=[0.0, 1.0], stage="floor")
    trained = [make_trial("lora", seed=seed, scores=scores) for seed, scores in ((1, [1.0, 1.0]), (2, [0.0, 1.0]))]
    untrained, lora = contenders_of(make_comparison_of(floor, *trained))
    found, mirrored = difference(lora, untrained), difference(untrained, lora)
    assert found is not None
    assert mirrored is not None
    assert (found.mean, mirrored.mean) == (0.25, -0.25)


@pytest.mark.parametrize("scores", [[1.0], []])
def test_other_rows_cannot_be_paired(
    scores: list[float], make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = make_trial("lora", scores=[1.0, 0.0]), make_trial("bitfit", scores=scores)
    lora, bitfit = contenders_of(make_comparison_of(*trials))
    assert difference(lora, bitfit) is None
