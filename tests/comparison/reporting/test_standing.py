"""The order of the contenders, and who is within the noise of the best."""

from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.columns import lines_of
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.reading_quality import quality_sentences
from petune.comparison.reporting.standing import Standing, standings_of
from petune.comparison.reporting.tables import LEARNING

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


@pytest.fixture
def three(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> Callable[..., Standing]:
    """The best, one that differs from it on one row of a hundred, one that never is right, and one that failed."""

    def make(**fields: object) -> Standing:
        trials = (
            make_trial("bitfit", scores=[0.0] * 100, bytes_stored=1, **fields),
            make_trial("lora", scores=[1.0] * 100, bytes_stored=10, **fields),
            make_trial("ia3", scores=[1.0] * 99 + [0.0], bytes_stored=4, **fields),
            make_trial("full", scores=[1.0], status="out_of_memory", reason="too large", **fields),
        )
        (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
        return standing

    return make


def test_the_best_comes_first_and_numbers_follow_the_order(three: Callable[..., Standing]) -> None:
    standing = three()
    assert [contender.method for contender in standing.contenders] == ["lora", "ia3", "bitfit", "full"]
    assert [contender.number for contender in standing.contenders] == [1, 2, 3, 4]
    assert [[c.method for c in group] for group in (standing.ties, standing.behind)] == [["ia3"], ["bitfit"]]
    assert standing.best is not None
    assert standing.best.method == "lora"


def test_less_may_be_better(three: Callable[..., Standing]) -> None:
    assert [contender.method for contender in three(higher_is_better=False).ranked] == ["bitfit", "ia3", "lora"]


def test_the_least_is_sought_within_the_noise(three: Callable[..., Standing]) -> None:
    standing = three()
    least = standing.least(lambda trial: trial.bytes_stored)
    assert least is not None
    assert least.method == "ia3"
    assert standing.least(lambda trial: trial.seconds) is None


def test_rows_may_score_better_than_those_of_the_best(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = (
        make_trial("lora", scores=[1.0] * 100, test={"loss": 1.5}, metric="loss", higher_is_better=False),
        make_trial("ia3", scores=[0.9] * 100, test={"loss": 1.6}, metric="loss", higher_is_better=False),
    )
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
    assert [[c.method for c in group] for group in (standing.ties, standing.behind, standing.ahead)] == [
        [], [], ["ia3"],
    ]  # fmt: skip
    said = [sentence.text for sentence in quality_sentences(standing)]
    assert "By the rows' mean score, and by more than the noise, IA3 is ahead of LoRA." in said
    assert not any("No other method" in text or "Behind" in text for text in said)


def test_losses_per_token_are_ranked_within_the_vocabulary_of_most(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    def standing(metric: str = "loss", *, more_extended: bool = False) -> Standing:
        own, extended = {"r": 8}, {"r": 8, "new_tokens": ["好的", "谢谢"]}
        losses = {"lora": (1.0, own), "bitfit": (1.2, extended if more_extended else own), "ia3": (0.5, extended)}
        trials = [
            make_trial(method, scores=[loss] * 50, test={metric: loss}, settings=settings, best_eval_loss=loss)
            for method, (loss, settings) in losses.items()
        ]
        trials.append(make_trial("hard_prompts", scores=[2.0] * 50, test={metric: 2.0}, stage="floor"))
        fields = {"metric": metric, "higher_is_better": metric == "accuracy"}
        (found,) = standings_of(
            contenders_of(make_comparison_of(*(trial.model_copy(update=fields) for trial in trials)))
        )
        return found

    found = standing()
    assert [c.method for c in found.contenders] == ["lora", "bitfit", "hard_prompts", "ia3"]
    assert [c.method for c in found.unranked] == ["ia3"]
    assert set(found.differences) == {2, 3}
    assert found.measured == (
        "Quality: loss on the test split, less is better. IA3 is not ranked: the loss is per"
        " token, and of another vocabulary (new_tokens) it cannot be compared."
    )
    assert not any("IA3" in sentence.text for sentence in quality_sentences(found))

    extended = standing(more_extended=True)
    assert [c.method for c in extended.contenders] == ["ia3", "bitfit", "lora", "hard_prompts"]
    assert not any("untrained" in sentence.text for sentence in quality_sentences(extended))

    answers = standing("accuracy")
    assert (answers.unranked, len(answers.differences)) == ((), 3)
    for any_metric in (found, answers):
        lines = lines_of(LEARNING, any_metric)
        assert [line.contender.method for line in lines if any(cell.leads for cell in line.cells)] == ["lora"]


def test_what_is_said_of_the_untrained_base_is_of_its_vocabulary(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    loss = {"metric": "loss", "higher_is_better": False}
    trials = (
        make_trial("lora", scores=[1.5] * 20, test={"loss": 1.5}, **loss),
        make_trial("ia3", scores=[0.5] * 20, test={"loss": 0.5}, settings={"new_tokens": "tokens.txt"}, **loss),
        make_trial("hard_prompts", scores=[1.0] * 20, test={"loss": 1.0}, stage="floor", **loss),
    )
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
    said = [sentence.text for sentence in quality_sentences(standing)]
    assert "No training with its vocabulary did better than the untrained base." in said


def test_numbers_go_on_from_base_to_base(comparison: Comparison) -> None:
    first, second = standings_of(contenders_of(comparison))
    assert [c.number for c in (*first.contenders, *second.contenders)] == list(range(1, 17))
    assert [c.method for c in second.contenders][-2:] == ["full", "llama_adapter"]


def test_a_metric_that_is_no_mean_of_rows_is_told(three: Callable[..., Standing]) -> None:
    assert three().measured == "Quality: accuracy on the test split, more is better."
    other = three(metric="f1", test={"f1": 0.123}, higher_is_better=False)
    assert other.measured.startswith("Quality: f1 on the test split, less is better. It is no mean over rows")


def test_nothing_measured_has_no_best(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trial = make_trial(scores=[1.0], test={"accuracy": float("nan")})
    (standing,) = standings_of(contenders_of(make_comparison_of(trial)))
    assert standing.best is None
    assert standing.front == ()
