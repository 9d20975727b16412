"""Contenders: which trials make one, what they are called, and which adapter is used."""

from collections.abc import Callable

from petune.comparison.record import Budget, Comparison, Trial
from petune.comparison.reporting.contenders import contenders_of, title_of, value_text

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def test_the_made_up_comparison_has_eight_on_each_base(comparison: Comparison) -> None:
    contenders = contenders_of(comparison)
    assert [len([c for c in contenders if c.base == base]) for base in dict.fromkeys(c.base for c in contenders)] == [
        8,
        8,
    ]
    assert [contender.number for contender in contenders] == list(range(1, 17))
    assert {len(contender.trials) for contender in contenders if not contender.untrained} == {3}


def test_settings_tell_contenders_of_a_method_apart(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [
        make_trial(
            "lora", seed=seed, scores=[1.0], settings={"r": r, "alpha": 16, "learning_rate": 1e-4}, id=f"{r}-{seed}"
        )
        for r in (4, 8)
        for seed in (1, 2)
    ]
    found = contenders_of(make_comparison_of(*trials))
    assert [contender.label for contender in found] == ["LoRA (r 4)", "LoRA (r 8)"]
    assert found[0].set_to == "r 4, alpha 16, learning_rate 0.0001"


def test_budgets_tell_contenders_apart(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [make_trial("lora", scores=[1.0], budget=Budget(unit="steps", amount=n), id=str(n)) for n in (10, 20)]
    labels = [
        contender.label.replace("\N{NO-BREAK SPACE}", " ") for contender in contenders_of(make_comparison_of(*trials))
    ]
    assert labels == ["LoRA (budget 10 steps)", "LoRA (budget 20 steps)"]


def test_entries_that_come_to_the_same_settings_are_rows_of_their_own(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    entries = ("lora", "lora learning_rate=0.0002")
    trials = [
        make_trial("lora", seed=seed, scores=[1.0], settings={"learning_rate": 2e-4}, entry=entry, id=f"{place}-{seed}")
        for place, entry in enumerate(entries)
        for seed in (1, 2)
    ]
    found = contenders_of(make_comparison_of(*trials))
    assert [contender.label for contender in found] == [f"LoRA (entry {entry})" for entry in entries]
    assert [[trial.seed for trial in contender.trials] for contender in found] == [[1, 2], [1, 2]]


def test_untrained_entries_that_would_read_alike_are_told_apart(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    entries = ("hard_prompts", "hard_prompts templates=[]")
    trials = [
        make_trial("hard_prompts", scores=[1.0], stage="floor", entry=entry, id=f"floor-{place}")
        for place, entry in enumerate(entries)
    ]
    labels = [contender.label for contender in contenders_of(make_comparison_of(*trials))]
    assert labels == [f"Hard prompts (untrained) (entry {entry})" for entry in entries]


def test_the_untrained_base_is_marked(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    (found,) = contenders_of(make_comparison_of(make_trial("hard_prompts", scores=[1.0], stage="floor")))
    assert found.untrained
    assert found.label == "Hard prompts (untrained)"


def test_figures_are_of_the_trials_that_ended_well(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    good = [make_trial(seed=seed, scores=[1.0] * seed + [0.0] * (4 - seed)) for seed in (1, 3)]
    bad = make_trial(seed=2, scores=[1.0], status="failed", reason="it broke")
    (found,) = contenders_of(make_comparison_of(*good, bad))
    assert found.quality is not None
    assert (found.quality.mean, found.quality.low, found.quality.high, found.quality.count) == (0.5, 0.25, 0.75, 2)
    assert [trial.seed for trial in found.problems] == [2]
    assert found.mean(lambda trial: trial.seconds) is None


def test_a_method_that_only_searched_is_a_contender(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trial = make_trial(stage="search", rung=0)
    (found,) = contenders_of(make_comparison_of(trial))
    assert (found.trials, found.search, found.quality) == ((), (trial,), None)


def test_the_adapter_is_chosen_without_the_test_split(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = [
        make_trial(seed=seed, scores=[test], development={"accuracy": development}, adapter=f"trials/{seed}")
        for seed, test, development in ((1, 1.0, 0.1), (2, 0.0, 0.9))
    ]
    (found,) = contenders_of(make_comparison_of(*trials))
    assert found.kept is not None
    assert found.kept.seed == 2
    lower = [trial.model_copy(update={"higher_is_better": False}) for trial in trials]
    (found,) = contenders_of(make_comparison_of(*lower))
    assert found.kept is not None
    assert found.kept.seed == 1


def test_titles_begin_with_a_capital_and_unknown_methods_keep_their_name() -> None:
    assert title_of("bottleneck") == "Bottleneck adapters"
    assert title_of("from_elsewhere") == "from_elsewhere"


def test_settings_are_written_as_people_do() -> None:
    assert [value_text(value) for value in (1e-5, "text", ["q", "v"], None)] == ["1e-05", "text", "q v", "null"]


def test_the_adapter_to_use_is_of_a_seed_with_a_figure(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = [
        make_trial(seed=seed, scores=[1.0], development={"accuracy": value}, adapter=f"trials/{seed}/adapter")
        for seed, value in ((1, float("nan")), (2, 0.5), (3, 0.75))
    ]
    (found,) = contenders_of(make_comparison_of(*trials))
    assert found.kept is not None
    assert found.kept.seed == 3
