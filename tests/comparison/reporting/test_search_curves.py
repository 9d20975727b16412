"""The charts of the search."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from petune.comparison.record import Budget, Comparison, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.search_curves import search_curves
from petune.comparison.reporting.searched import searches_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def charts_of(comparison: Comparison) -> list[ET.Element]:
    searches = searches_of(contenders_of(comparison))
    return [ET.fromstring(picture) for _, picture in search_curves(searches, "one")]


def shapes(root: ET.Element, kind: str) -> list[ET.Element]:
    return [shape for shape in root.iter() if shape.get("class") == kind]


def tried(make_trial: MakeTrial, rung: int, quality: float, *, budget: int = 10, **settings: Any) -> Trial:
    return make_trial(
        stage="search", rung=rung, settings=settings, development={"accuracy": quality}, id=f"s{rung}-{len(settings)}",
        budget=Budget(unit="steps", amount=budget),
    )  # fmt: skip


def test_a_line_for_each_round_and_the_choice(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    first = [
        tried(make_trial, 0, quality, learning_rate=rate) for rate, quality in ((1e-2, 0.5), (1e-4, 0.6), (1e-3, 0.7))
    ]
    second = [
        tried(make_trial, 1, quality, budget=30, learning_rate=rate) for rate, quality in ((1e-4, 0.9), (1e-3, 0.8))
    ]
    final = make_trial(scores=[1.0], settings={"learning_rate": 1e-4})
    (root,) = charts_of(make_comparison_of(*first, *second, final))
    (early,) = shapes(root, "curve training")
    (late,) = shapes(root, "curve validation")
    points = [tuple(map(float, point.split())) for point in early.get("d", "")[1:].split("L")]
    # Rates stand in their order, and those that are ten times apart at equal distances; better is higher up.
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x1 < x2 < x3
    assert abs((x2 - x1) - (x3 - x2)) < 0.2
    assert y2 < y1 < y3
    assert late.get("d", "").count("L") == 1
    (chosen,) = shapes(root, "dot front")
    hint = chosen.findtext("{*}title") or chosen.findtext("title") or ""
    assert hint.startswith("learning_rate 0.0001: 0.900 after")
    words = " ".join(root.itertext())
    assert "round 1, after" in words
    assert "0.600 at 0.0001, 0.700 at 0.001, 0.500 at 0.01" in words


def test_other_settings_have_lines_of_their_own(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [tried(make_trial, 0, 0.5 + r * rate, learning_rate=rate, r=r) for rate in (0.01, 0.1) for r in (2, 4)]
    (root,) = charts_of(make_comparison_of(*trials, make_trial(scores=[1.0], settings={"learning_rate": 0.1, "r": 4})))
    assert len(shapes(root, "curve validation")) == 2
    assert len(shapes(root, "dot front")) == 1


def test_what_was_tried_at_the_rate_that_was_found_stands_there(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    rates = [tried(make_trial, 0, 0.5 + 0.1 * i, learning_rate=rate) for i, rate in enumerate((0.01, 0.1))]
    others = [tried(make_trial, 1, quality, learning_rate=0.1, r=r) for r, quality in ((2, 0.55), (32, 0.7))]

    def drawn(**settings: Any) -> ET.Element:
        final = make_trial(scores=[1.0], settings={"learning_rate": 0.1, **settings})
        (root,) = charts_of(make_comparison_of(*rates, *others, final))
        return root

    for settings, said in (({}, "learning_rate 0.1: 0.600"), ({"r": 32}, "learning_rate 0.1, r 32: 0.700")):
        (chosen,) = shapes(drawn(**settings), "dot front")
        assert (chosen.findtext("{*}title") or "").startswith(said)
    assert len({dot.get("cx") for dot in shapes(drawn(), "dot validation")}) == 2


def test_without_rates_another_number_is_drawn(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [tried(make_trial, 0, 0.1 * r, r=r, projection=True) for r in (2, 4, 8)]
    (root,) = charts_of(make_comparison_of(*trials, make_trial(scores=[1.0], settings={"r": 8, "projection": True})))
    (name,) = shapes(root, "axis-name")
    assert name.text == "r"


def test_what_cannot_be_drawn_is_left_out(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    words = [tried(make_trial, 0, 0.5, start=start) for start in ("random", "text")]
    assert charts_of(make_comparison_of(*words)) == []
    failed = make_trial(stage="search", rung=0, status="failed", reason="nan", settings={"learning_rate": 1.0}, id="f")
    assert charts_of(make_comparison_of(failed, tried(make_trial, 0, 0.5, learning_rate=0.1))) == []


def test_charts_of_a_base_have_one_upward_axis(comparison: Comparison) -> None:
    pictures = charts_of(comparison)
    assert len(pictures) >= 13
    half = len(pictures) // 2
    ticks = [[tick.text for tick in shapes(root, "tick") if tick.get("text-anchor") == "end"] for root in pictures]
    assert ticks[:half] == [ticks[0]] * half
