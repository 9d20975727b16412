import math
from pathlib import Path

import pytest

from petune.comparison.curve import Curve
from petune.training.events import Evaluated, Plan, Step


def step(number: int, loss: float) -> Step:
    return Step(number, 0.0, loss, 1e-3, 1.0, tokens=10, tokens_per_second=5.0, seconds=2.0, memory=1)


def follow(curve: Curve, losses: list[float], evaluations: dict[int, float], first: int = 0) -> None:
    curve.started(Plan(total_steps=first + len(losses), first_step=first, parameters=""))
    for number, loss in enumerate(losses, start=first + 1):
        curve.stepped(step(number, loss))
        if number in evaluations:
            curve.evaluated(Evaluated(number, 0.0, {"loss": evaluations[number]}, best=False))
            curve.saved(Path("checkpoint"), number)
    curve.ended()


def test_points_hold_means_since_the_last(tmp_path: Path) -> None:
    curve = Curve(2, tmp_path)
    follow(curve, [6.0, 4.0, 3.0, 1.0, 5.0], {3: 2.5, 4: 2.0})
    assert [(p.step, p.train_loss, p.eval_loss) for p in curve.points] == [
        (2, 5.0, None),
        (3, 3.0, 2.5),
        (4, 1.0, 2.0),
        (5, 5.0, None),
    ]
    assert [(p.tokens, p.seconds) for p in curve.points] == [(20, 4.0), (30, 6.0), (40, 8.0), (50, 10.0)]
    assert (curve.tokens, curve.seconds) == (50, 10.0)


def test_an_evaluation_at_a_point_joins_it(tmp_path: Path) -> None:
    curve = Curve(2, tmp_path)
    follow(curve, [6.0, 4.0], {2: 1.5})
    assert [(p.step, p.train_loss, p.eval_loss) for p in curve.points] == [(2, 5.0, 1.5)]


def test_best_and_last(tmp_path: Path) -> None:
    curve = Curve(100, tmp_path)
    follow(curve, [float(i) for i in range(40, 0, -1)], {10: 0.9, 20: 0.4, 30: 0.4, 40: 0.7})
    assert curve.best is not None
    assert (curve.best.step, curve.best.eval_loss, curve.last_eval_loss) == (20, 0.4, 0.7)
    assert curve.train_loss == pytest.approx((4 + 3 + 2 + 1) / 4)


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    curve = Curve(100, tmp_path)
    follow(curve, [3.0, 2.0, 1.0], {1: math.nan, 2: 0.9, 3: math.inf})
    assert curve.best is not None
    assert (curve.best.step, curve.best.eval_loss) == (2, 0.9)
    never = Curve(100, tmp_path)
    follow(never, [3.0], {1: math.nan})
    assert never.best is None


def test_nothing_was_trained(tmp_path: Path) -> None:
    curve = Curve(1, tmp_path)
    assert (curve.points, curve.best, curve.train_loss, curve.last_eval_loss) == ([], None, None, None)


def test_a_resumed_run_goes_on_with_its_curve(tmp_path: Path) -> None:
    whole, stopped, resumed = (Curve(2, tmp_path / name) for name in ("whole", "part", "part"))
    losses, evaluations = [6.0, 4.0, 3.0, 1.0, 5.0, 2.0], {3: 2.5, 6: 2.0}
    follow(whole, losses, evaluations)
    follow(stopped, losses[:4], evaluations)  # step 4 is lost: the checkpoint is of step 3
    follow(resumed, losses[3:], evaluations, first=3)
    assert resumed.points == whole.points


def test_a_curve_of_another_step_is_not_taken(tmp_path: Path) -> None:
    follow(Curve(1, tmp_path), [6.0, 4.0], {2: 1.0})
    later = Curve(1, tmp_path)
    follow(later, [3.0], {}, first=1)
    assert [p.train_loss for p in later.points] == [3.0]
