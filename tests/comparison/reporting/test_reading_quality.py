"""What is said of quality."""

from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.highlights import highlights_of
from petune.comparison.reporting.reading_quality import quality_sentences
from petune.comparison.reporting.standing import standings_of

RIGHT, ALMOST, WRONG = [1.0] * 100, [1.0] * 99 + [0.0], [0.0] * 100


@pytest.fixture
def said(make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]) -> Callable[..., list[str]]:
    """Return what is said of contenders, each given as a method with the fields of its trial."""

    def say(**fields: dict[str, object]) -> list[str]:
        trials = [make_trial(method, **values) for method, values in fields.items()]
        (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
        return [sentence.text.replace("\N{NO-BREAK SPACE}", " ") for sentence in quality_sentences(standing)]

    return say


Said = Callable[..., list[str]]


def test_the_best_those_like_it_and_those_behind(said: Said) -> None:
    assert said(lora={"scores": RIGHT}, ia3={"scores": ALMOST}, bitfit={"scores": WRONG}) == [
        "LoRA is best: accuracy 1.000, with one seed.",
        "IA3 is within the noise of LoRA: the test rows and the seeds do not tell them apart.",
        "Behind LoRA by more than the noise: BitFit by 1.000.",
        "Every method ran with one seed: the intervals tell of the test rows, not of how much a training varies.",
    ]


@pytest.mark.parametrize(
    ("second", "expected"),
    [(ALMOST, "accuracy 0.995, from 0.990 to 1.000 over 2 seeds."), (RIGHT, "accuracy 1.000, with each of 2 seeds.")],
)
def test_seeds_are_told(
    second: list[float],
    expected: str,
    make_trial: Callable[..., Trial],
    make_comparison_of: Callable[..., Comparison],
) -> None:
    trials = [make_trial(seed=seed, scores=scores) for seed, scores in ((1, RIGHT), (2, second))]
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
    assert next(quality_sentences(standing)).text == f"LoRA is best: {expected}"


def test_the_smallest_and_cheapest_of_those_as_good(said: Said) -> None:
    cheap = {"bytes_stored": 2**10, "peak_memory_bytes": 2**20, "seconds": 30.0}
    dear = {"bytes_stored": 2**20, "peak_memory_bytes": 2**30, "seconds": 20.0}
    assert said(lora={"scores": RIGHT, **dear}, ia3={"scores": ALMOST, **cheap})[3:] == [
        "IA3 is within the noise of LoRA at 0.098 % of the storage (1.00 KiB a task against 1.00 MiB).",
        "Of the best and those within its noise, IA3 needs the least memory (1.00 MiB) and LoRA needs the least"
        " time (20.0 s).",
    ]
    assert said(lora={"scores": RIGHT, **cheap}, ia3={"scores": ALMOST, **dear})[3] == (
        "Of the best and those within its noise, LoRA is also the smallest: 1.00 KiB a task."
    )


def test_the_cheapest_is_named_where_the_seeds_agree(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    trials = [
        make_trial(method, seed=seed, scores=RIGHT, seconds=seconds, peak_memory_bytes=memory)
        for method, times, memory in (("lora", (20.0, 31.0), 2**30), ("ia3", (30.0, 30.0), 2**20))
        for seed, seconds in enumerate(times)
    ]
    (standing,) = standings_of(contenders_of(make_comparison_of(*trials)))
    said = [sentence.text.replace("\N{NO-BREAK SPACE}", " ") for sentence in quality_sentences(standing)]
    assert said[-1] == "Of the best and those within its noise, IA3 needs the least memory (1.00 MiB)."
    titles = [highlight.title for highlight in highlights_of(standing)]
    assert titles == ["Best", "Least memory within its noise"]


@pytest.mark.parametrize(
    ("floor", "trained", "expected"),
    [
        (WRONG, RIGHT, "Training is worth 1.000 of accuracy: from Hard prompts (untrained) to LoRA."),
        (ALMOST, RIGHT, "No training is shown to help: Hard prompts (untrained) are within the noise of LoRA."),
        (RIGHT, WRONG, "No training did better than the untrained base."),
    ],
)
def test_training_is_set_against_none(floor: list[float], trained: list[float], expected: str, said: Said) -> None:
    assert expected in said(lora={"scores": trained}, hard_prompts={"scores": floor, "stage": "floor"})


@pytest.mark.parametrize("higher", [True, False])
def test_what_training_spoiled_is_told(higher: bool, said: Said) -> None:
    best, worst = (RIGHT, WRONG) if higher else (WRONG, RIGHT)
    found = said(
        lora={"scores": best, "higher_is_better": higher},
        ia3={"scores": worst, "higher_is_better": higher},
        hard_prompts={"scores": ALMOST, "stage": "floor", "higher_is_better": higher},
    )
    assert ("IA3 does worse than the untrained base." in found) is higher


def test_without_scores_nothing_is_said_of_noise(said: Said) -> None:
    found = said(lora={"test": {"accuracy": 0.9}}, ia3={"test": {"accuracy": 0.8}})
    assert found[1:] == ["How sure the distance of IA3 is cannot be said: no scores of the same rows and seeds."]


def test_a_method_of_which_nothing_is_known_may_be_within_the_noise(said: Said) -> None:
    found = said(lora={"scores": RIGHT}, ia3={"test": {"accuracy": 0.99}}, bitfit={"scores": WRONG})
    assert not any("No other method" in text for text in found)
    assert "How sure the distance of IA3 is cannot be said: no scores of the same rows and seeds." in found


def test_without_figures_that_is_said(said: Said) -> None:
    assert said(lora={"status": "failed", "reason": "it broke"}) == [
        "No trial ended with a figure, so nothing can be compared."
    ]
