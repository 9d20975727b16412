"""What was searched, and what it cost."""

from collections.abc import Callable

from petune.comparison.record import Budget, Comparison, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.searched import searches_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def test_candidates_results_and_the_choice_are_told(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    def searched(rate: float, rung: int, **fields: object) -> Trial:
        return make_trial(
            stage="search", rung=rung, settings={"r": 8, "learning_rate": rate}, wall_seconds=10.0,
            budget=Budget(unit="steps", amount=10 * (rung + 1)), id=f"{rate}-{rung}", **fields,
        )  # fmt: skip

    trials = [
        searched(1e-4, 0, development={"accuracy": 0.5}),
        searched(1e-3, 0, development={"accuracy": 0.75}),
        searched(1e-2, 0, status="failed", reason="the loss became NaN"),
        searched(1e-3, 1, development={"accuracy": 0.8}),
        make_trial(scores=[1.0], settings={"r": 8, "learning_rate": 1e-3}),
    ]
    (found,) = searches_of(contenders_of(make_comparison_of(*trials)))
    plain = [
        (c.settings, tuple(r.replace("\N{NO-BREAK SPACE}", " ") for r in c.results), c.chosen) for c in found.candidates
    ]
    assert plain == [
        ("learning_rate 0.0001", ("0.500 after 10 steps",), False),
        ("learning_rate 0.001", ("0.750 after 10 steps", "0.800 after 20 steps"), True),
        ("learning_rate 0.01", ("failed after 10 steps: the loss became NaN",), False),
    ]
    assert (found.trials, found.seconds, found.metric) == (4, 40.0, "accuracy")


def test_variants_of_a_method_have_one_search(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    finals = [make_trial(scores=[1.0], settings={"r": r}, id=f"final-{r}") for r in (4, 8)]
    tried = [make_trial(stage="search", rung=0, settings={"r": r}, id=f"search-{r}") for r in (4, 8, 16)]
    (found,) = searches_of(contenders_of(make_comparison_of(*finals, *tried)))
    assert [(candidate.settings, candidate.chosen) for candidate in found.candidates] == [
        ("r 4", True),
        ("r 8", True),
        ("r 16", False),
    ]
    assert found.candidates[0].results[0].startswith("not measured after")


def test_a_setting_that_is_not_given_is_left_to_the_method(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    tried = [
        make_trial(stage="search", rung=rung, settings=settings, id=f"search-{rung}")
        for rung, settings in enumerate(({"learning_rate": 0.1}, {"learning_rate": 0.1, "r": 32}))
    ]
    (found,) = searches_of(contenders_of(make_comparison_of(*tried, make_trial(scores=[1.0], settings={}))))
    assert [candidate.settings for candidate in found.candidates] == ["as given", "r 32"]


def test_without_a_search_there_is_none(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    assert searches_of(contenders_of(make_comparison_of(make_trial(scores=[1.0])))) == []


def test_a_search_among_hard_prompts_is_told(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    prompt = {"base": "b", "method": "hard_prompts"}
    tried = [
        make_trial(**prompt, stage="search", rung=0, settings={"templates": text}, id=name)
        for name, text in (("a", "{{ a }}"), ("b", "{{ b }}"))
    ]
    kept = make_trial(**prompt, stage="floor", scores=[1.0], settings={"templates": "{{ b }}"})
    (found,) = searches_of(contenders_of(make_comparison_of(kept, *tried)))
    assert [candidate.chosen for candidate in found.candidates] == [False, True]
