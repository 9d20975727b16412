"""What is said of use."""

from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Forgetting, Trial
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.reading_use import use_sentences
from petune.comparison.reporting.standing import standings_of


@pytest.fixture
def said(make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]) -> Callable[..., list[str]]:
    """Return what is said of trials, each given by its method and fields."""

    def say(*trials: tuple[str, dict[str, object]]) -> list[str]:
        made = [make_trial(method, **{"scores": [1.0], **fields}) for method, fields in trials]
        (standing,) = standings_of(contenders_of(make_comparison_of(*made)))
        return [sentence.text.replace("\N{NO-BREAK SPACE}", " ") for sentence in use_sentences(standing)]

    return say


Said = Callable[..., list[str]]


def forgetting(after: float, **fields: float) -> dict[str, object]:
    return {"forgetting": Forgetting(neutral_loss_before=3.0, neutral_loss_after=after, **fields)}


def test_slower_methods_are_named_the_slowest_first(said: Said) -> None:
    trials = [(m, {"generation_latency_ratio": ratio}) for m, ratio in (("lora", 1.01), ("ia3", 1.1), ("bitfit", 1.25))]
    assert said(*trials) == ["Writing is slower than with the bare base: BitFit by 25 % and IA3 by 10 %."]
    assert said(trials[0]) == ["No method slows writing by more than 5.0 % with every seed."]


def test_every_seed_must_be_slower(said: Said) -> None:
    def seeds(*ratios: float) -> list[tuple[str, dict[str, object]]]:
        return [("lora", {"seed": seed, "generation_latency_ratio": ratio}) for seed, ratio in enumerate(ratios)]

    assert said(*seeds(1.3, 1.04, 1.3)) == ["No method slows writing by more than 5.0 % with every seed."]
    assert said(*seeds(1.5, 1.1, 1.08)) == ["Writing is slower than with the bare base: LoRA by 10 %."]


def test_what_the_untrained_base_is_off_by_is_noise(said: Said) -> None:
    floor = ("hard_prompts", {"stage": "floor", "generation_latency_ratio": 0.88})
    trials = [(m, {"generation_latency_ratio": ratio}) for m, ratio in (("lora", 1.1), ("ia3", 1.25))]
    off = "; the untrained base itself is measured 12 % off."
    assert said(floor, *trials) == [f"Writing is slower than with the bare base: IA3 by 25 %{off}"]
    assert said(floor, trials[0]) == [f"No method slows writing by more than 12 % with every seed{off}"]


def test_forgetting_is_told_from_both_ends(said: Said) -> None:
    found = said(("lora", forgetting(3.01)), ("full", forgetting(4.5)), ("ia3", forgetting(3.5)))
    assert found == [
        "Full fine-tuning forgets most: its loss on neutral text goes from 3.000 to 4.500; LoRA least, from"
        " 3.000 to 3.010."
    ]
    assert said(("lora", forgetting(3.01))) == ["No method's loss on neutral text rises by more than 2.0 %."]


def test_loss_per_token_of_other_tokens_is_no_forgetting(said: Said) -> None:
    extended = {**forgetting(4.5), "settings": {"new_tokens": ["好的"]}}
    assert said(("lora", forgetting(3.01)), ("ia3", extended)) == [
        "No method's loss on neutral text rises by more than 2.0 %."
    ]


def test_answers_that_change_are_told(said: Said) -> None:
    changed = forgetting(
        3.0,
        other_language_share_before=0.01,
        other_language_share_after=0.2,
        answer_tokens_before=10.0,
        answer_tokens_after=30.0,
    )
    assert said(("lora", changed))[1:] == [
        "LoRA answers 20 % of the prompts in another language; the bare base 1.0 %.",
        "Answers of LoRA are longer: 30.0 tokens instead of 10.0.",
    ]
    same = forgetting(
        3.0,
        other_language_share_before=0.01,
        other_language_share_after=0.02,
        answer_tokens_before=10.0,
        answer_tokens_after=9.0,
    )
    assert said(("lora", same))[1:] == []


@pytest.mark.parametrize(
    ("status", "words"), [("failed", "failed"), ("out_of_memory", "ran out of memory"), ("refused", "was not started")]
)
def test_what_did_not_run_is_told_with_its_reason(status: str, words: str, said: Said) -> None:
    broken = {"status": status, "reason": "there is no place. "}
    assert said(("lora", broken)) == [f"LoRA {words}: there is no place."]
    assert said(("lora", {"seed": 2}), ("lora", broken)) == [f"LoRA {words} in 1 of 2 trials: there is no place."]


def test_what_was_not_reached_is_told(said: Said) -> None:
    assert said(("lora", {"stage": "search", "rung": 0, "scores": []})) == ["Not reached yet: LoRA."]


def test_the_untrained_base_forgets_nothing(said: Said) -> None:
    assert said(("hard_prompts", {"stage": "floor", "generation_latency_ratio": 1.0})) == []
