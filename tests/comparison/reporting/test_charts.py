"""The charts: what they show, in shapes and in words."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.charts import EXPENSES, WIDTH, cost_chart, distance_chart
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.standing import Standing, standings_of
from petune.comparison.reporting.svg import Drawing, shortened, width_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


@pytest.fixture(scope="module")
def standing(comparison: Comparison) -> Standing:
    return standings_of(contenders_of(comparison))[0]


def shapes(picture: str, kind: str) -> list[ET.Element]:
    return [shape for shape in ET.fromstring(picture).iter() if shape.get("class") == kind]


def test_the_distance_of_each_contender_is_drawn(standing: Standing) -> None:
    picture = distance_chart(standing, "one")
    assert picture is not None
    assert len(shapes(picture, "name")) == len(standing.ranked) == 8
    assert len(shapes(picture, "interval near")) == len(standing.ties) == 3
    assert len(shapes(picture, "interval far")) == len(standing.behind) == 4
    zero = float(shapes(picture, "zero")[0].get("x1", "nan"))
    for line in shapes(picture, "interval near"):
        assert float(line.get("x1", "nan")) <= zero <= float(line.get("x2", "nan"))


@pytest.mark.parametrize("expense", EXPENSES, ids=lambda expense: expense.name)
def test_quality_is_drawn_against_cost(standing: Standing, expense: object) -> None:
    assert expense in EXPENSES
    picture = cost_chart(standing, next(e for e in EXPENSES if e == expense), "one")
    assert picture is not None
    dots = shapes(picture, "dot front") + shapes(picture, "dot far")
    assert len(dots) == len(shapes(picture, "name")) == 8
    assert all(0 <= float(dot.get("cx", "nan")) <= WIDTH for dot in dots)
    assert len(shapes(picture, "front-line")) == 1


def test_better_is_up_whatever_the_metric(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    for higher in (True, False):
        trials = [
            make_trial(method, scores=[score], seconds=1.0 + score, higher_is_better=higher)
            for method, score in (("lora", 1.0), ("ia3", 0.0))
        ]
        (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
        picture = cost_chart(standing, EXPENSES[2], "one")
        assert picture is not None
        heights = {
            (dot[0].text or "").split(":")[0]: float(dot.get("cy", "nan"))
            for kind in ("dot front", "dot far")
            for dot in shapes(picture, kind)
        }
        assert standing.best is not None
        assert min(heights, key=lambda name: heights[name]) == standing.best.label


def test_a_chart_of_one_point_is_left_out(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    (standing,) = standings_of(contenders_of(make_comparison_of(make_trial(scores=[1.0], seconds=1.0))))
    assert distance_chart(standing, "one") is None
    assert [cost_chart(standing, expense, "one") for expense in EXPENSES] == [None] * 3


def test_those_who_do_not_see_a_chart_get_its_figures(standing: Standing) -> None:
    picture = cost_chart(standing, EXPENSES[0], "one")
    assert picture is not None
    root = ET.fromstring(picture)
    assert root.get("role") == "img"
    named = {element.get("id"): element.text or "" for element in root.iter() if element.get("id")}
    assert list(named) == (root.get("aria-labelledby") or "").split()
    assert named["one-title"] == "accuracy against trainable parameters"
    assert all(contender.label in named["one-text"] for contender in standing.ranked)
    assert "On the Pareto front: Hard prompts (untrained), Prompt tuning" in named["one-text"]


def test_words_in_a_drawing_are_text() -> None:
    drawing = Drawing("one", 10, 10, "<title>", "a & b")
    drawing.text("name", 0, 0, "<script>alert(1)</script>")
    drawing.circle("dot", 0, 0, 1, '"<b>')
    assert "<script" not in drawing.markup()
    assert [element.text for element in ET.fromstring(drawing.markup()).iter("text")] == ["<script>alert(1)</script>"]


def test_a_long_name_is_shortened() -> None:
    assert shortened("short", 100) == "short"
    found = shortened("a name that is much too long", 80)
    assert found.endswith("…")
    assert width_of(found) <= 80
    assert width_of("标签") > width_of("ab")
