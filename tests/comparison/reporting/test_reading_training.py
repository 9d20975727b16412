"""What is said of training."""

from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, CurvePoint, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.reading_training import overfits, still_falling, training_sentences
from petune.comparison.reporting.searched import searches_of
from petune.comparison.reporting.standing import standings_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


@pytest.fixture
def trained(make_trial: MakeTrial) -> Callable[..., Trial]:
    """Make a trial of the validation losses after each hundred steps."""

    def make(*losses: float, **fields: object) -> Trial:
        curve = [CurvePoint(step=100 * n, tokens=n, seconds=n, eval_loss=loss) for n, loss in enumerate(losses, 1)]
        best = losses.index(min(losses))
        values = {
            "curve": curve,
            "best_step": 100 * (best + 1),
            "best_eval_loss": losses[best],
            "eval_loss": losses[-1],
        }
        return make_trial(**{"scores": [1.0], "train_loss": 0.25, **values, **fields})

    return make


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((3.0, 1.0, 1.5, 2.0), True),
        ((3.0, 1.0, 1.01, 1.015), False),
        ((3.0, 2.0, 1.5, 1.0), False),
    ],
)
def test_overfitting_is_a_clear_rise_before_the_end(
    losses: tuple[float, ...], expected: bool, trained: Callable[..., Trial]
) -> None:
    assert overfits(trained(*losses)) is expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((3.0, 2.0, 1.5, 1.0), True),
        ((3.0, 2.0, 1.0, 0.995), False),
        ((3.0, 1.0, 2.0, 1.5), False),
        ((3.0, 2.0), False),  # at half and at the end: when it fell is not known
        ((3.0, 2.0, 1.5), True),
        ((3.0, 2.5, 1.8, 1.5, 1.0), True),
        ((3.0,), False),
    ],
)
def test_falling_is_a_clear_fall_since_three_quarters(
    losses: tuple[float, ...], expected: bool, trained: Callable[..., Trial]
) -> None:
    assert still_falling(trained(*losses)) is expected


def said(comparison: Comparison) -> list[str]:
    (standing,) = standings_of(contenders_of(comparison))
    return [sentence.text for sentence in training_sentences(standing)]


def test_every_seed_must_overfit(trained: Callable[..., Trial], make_comparison_of: MakeComparison) -> None:
    first, second = trained(3.0, 1.0, 1.5, 2.0), trained(3.0, 2.0, 1.5, 2.0, seed=2)
    assert said(make_comparison_of(first, second)) == [
        "LoRA overfits after step 200 to 300 of 400: its validation loss rises from 1.250 to 2.000, with a training"
        " loss of 0.250."
    ]
    assert said(make_comparison_of(first, trained(3.0, 2.0, 1.6, 1.599, seed=2))) == []


def test_those_that_were_not_done_are_told(trained: Callable[..., Trial], make_comparison_of: MakeComparison) -> None:
    trials = [trained(3.0, 2.0, 1.5, 1.0, method=method) for method in ("lora", "ia3")]
    assert said(make_comparison_of(*trials)) == [
        "The validation loss of LoRA and IA3 was still falling at the end: more training may help."
    ]


@pytest.mark.parametrize(
    ("chosen", "edge"),
    [
        (1e-4, "the least learning_rate of LoRA (0.0001)"),
        (1e-3, None),
        (1e-2, "the largest learning_rate of LoRA (0.01)"),
    ],
)
def test_a_choice_at_the_edge_of_the_search_is_told(
    chosen: float, edge: str | None, make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    tried = [
        make_trial(stage="search", rung=0, settings={"learning_rate": rate, "r": 8}, id=f"s{rate}")
        for rate in (1e-4, 1e-3, 1e-2)
    ]
    final = make_trial(scores=[1.0], settings={"learning_rate": chosen, "r": 8})
    expected = (
        [] if edge is None else [f"Chosen at the edge of what was tried: {edge}. A wider search may find better."]
    )
    assert said(make_comparison_of(*tried, final)) == expected


def test_an_edge_is_of_what_the_entry_s_own_search_tried(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = []
    for tokens, rates, chosen in ((5, (1e-3, 1e-2, 1e-1), 1e-2), (100, (1e-3, 1e-2), 1e-2)):
        own = {"entry": f"prefix_tuning num_virtual_tokens={tokens}"}
        for rate in rates:
            settings = {"num_virtual_tokens": tokens, "learning_rate": rate}
            fields = {"id": f"s{tokens}-{rate}", "stage": "search", "rung": 0, "development": {"accuracy": 0.5}}
            trials.append(make_trial("prefix_tuning", settings=settings, **fields, **own))
        settings = {"num_virtual_tokens": tokens, "learning_rate": chosen}
        trials.append(make_trial("prefix_tuning", id=f"f{tokens}", settings=settings, scores=[1.0], **own))
    comparison = make_comparison_of(*trials)
    (standing,) = standings_of(contenders_of(comparison))
    (edge,) = [s.text for s in training_sentences(standing) if "edge" in s.text]
    assert "the largest learning_rate of Prefix tuning (num_virtual_tokens 100) (0.01)" in edge
    assert "num_virtual_tokens of" not in edge
    assert [len(search.candidates) for search in searches_of(standing.contenders)] == [3, 2]
