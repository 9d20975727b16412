"""Commands to use what was trained."""

import inspect
import shlex
from collections.abc import Callable

import petune
from petune.cli.loading import LoadOptions
from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.commands import uses_of
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.sections import report_of
from petune.comparison.reporting.standing import standings_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def test_the_best_and_the_smallest_as_good_are_recommended(comparison: Comparison) -> None:
    first, _ = standings_of(contenders_of(comparison))
    best, smallest = uses_of(first, {})
    assert (best.contender, smallest.contender) == (first.best, first.least(lambda trial: trial.bytes_stored))
    assert best.contender.kept is not None
    adapter = best.contender.kept.adapter
    assert best.lines == (
        f'petune generate --adapter {adapter} --prompt "..."',
        f"petune predict --adapter {adapter} --data data/test.jsonl",
    )
    assert f"petune.load('{adapter}')" in best.python
    assert smallest.why == f"the smallest within the noise of the best on {first.base}"


def test_a_base_that_writes_nothing_predicts(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trial = make_trial(scores=[1.0], adapter="trials/it's here/adapter")
    (standing,) = standings_of(contenders_of(make_comparison_of(trial)))
    (use,) = uses_of(standing, {})
    assert shlex.split(use.lines[0]) == [
        "petune",
        "predict",
        "--adapter",
        "trials/it's here/adapter",
        "--data",
        "data/test.jsonl",
    ]
    assert len(use.lines) == 1
    compile(use.python, "use", "exec")


def test_without_an_adapter_there_is_nothing_to_use(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    (standing,) = standings_of(contenders_of(make_comparison_of(make_trial(scores=[1.0]))))
    assert uses_of(standing, {}) == []


def test_a_base_with_code_of_its_own_is_trusted_in_every_line(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    comparison = make_comparison_of(make_trial(scores=[1.0], adapter="trials/a/adapter"), trust_remote_code=True)
    report = report_of(comparison)
    (use,) = report.uses
    assert all(line.endswith(" --trust-remote-code") for line in use.lines)
    assert "petune.load('trials/a/adapter', trust_remote_code=True)" in use.python
    assert report.command(comparison.trials[0]).endswith(" --trust-remote-code")


def test_the_base_is_loaded_as_it_was_compared(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    recipe = {"dtype": "bfloat16", "quantization": "4bit", "device": "auto", "seeds": [1]}
    trial = make_trial(scores=[1.0], adapter="trials/a/adapter", can_generate=True)
    (use,) = report_of(make_comparison_of(trial, recipe=recipe)).uses
    loading = " --dtype bfloat16 --quantization 4bit"
    assert use.lines == (
        f'petune generate --adapter trials/a/adapter --prompt "..."{loading}',
        f"petune predict --adapter trials/a/adapter --data data/test.jsonl{loading}",
    )
    assert "petune.load('trials/a/adapter', dtype='bfloat16', quantization='4bit')" in use.python


def test_the_commands_take_what_is_written(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    written = {"dtype", "quantization", "device"}
    assert written <= LoadOptions.model_fields.keys()
    assert written <= inspect.signature(petune.load).parameters.keys()
    recipe = dict.fromkeys(written, "8bit")
    (use,) = report_of(make_comparison_of(make_trial(scores=[1.0], adapter="a"), recipe=recipe)).uses
    assert all(f" --{name} 8bit" in use.lines[0] for name in written)
