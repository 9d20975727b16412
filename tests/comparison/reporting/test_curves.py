"""Learning curves."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

from petune.comparison.record import Comparison, CurvePoint, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.curves import learning_curves
from petune.comparison.reporting.standing import standings_of


def test_each_trained_method_has_a_chart_with_a_line_for_each_seed(comparison: Comparison) -> None:
    standing = standings_of(contenders_of(comparison))[0]
    charts = dict(learning_curves(standing, "one"))
    assert [contender.untrained for contender in charts] == [False] * 7
    for contender, picture in charts.items():
        kinds = [shape.get("class") for shape in ET.fromstring(picture).iter()]
        counts = [kinds.count(kind) for kind in ("curve validation", "curve training", "least", "curve other")]
        assert counts == [len(contender.done)] * 3 + [6]


def test_points_lie_where_their_losses_are(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    losses = {0: 9.0, 50: 1.0, 100: 2.0}
    curve = [CurvePoint(step=step, tokens=step, seconds=0, eval_loss=loss) for step, loss in losses.items()]
    trial = make_trial(scores=[1.0], curve=curve, best_step=50)
    (standing,) = standings_of(contenders_of(make_comparison_of(trial)))
    ((_, picture),) = learning_curves(standing, "one")
    root = ET.fromstring(picture)
    (line,) = (shape for shape in root.iter() if shape.get("class") == "curve validation")
    points = [tuple(map(float, point.split())) for point in line.get("d", "")[1:].split("L")]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    # The first loss lies above the axis and is drawn at its end.
    assert points[0][1] <= points[2][1] < points[1][1]
    (least,) = (shape for shape in root.iter() if shape.get("class") == "least")
    assert (float(least.get("cx", "")), float(least.get("cy", ""))) == points[1]


def test_what_was_not_trained_has_no_curve(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    (standing,) = standings_of(contenders_of(make_comparison_of(make_trial(scores=[1.0]))))
    assert list(learning_curves(standing, "one")) == []
