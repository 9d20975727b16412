"""The trials as CSV."""

import csv
import io
from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.spreadsheet import harmless, spreadsheet

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_trial_has_a_line_with_its_figures_in_full(comparison: Comparison) -> None:
    lines = lines_of(spreadsheet(comparison))
    assert [line["id"] for line in lines] == [trial.id for trial in comparison.trials]
    for line, trial in zip(lines, comparison.trials, strict=True):
        assert line["test_accuracy"] == (str(trial.test["accuracy"]) if trial.test else "")
        assert line["reason"] == (trial.reason or "")
        assert line["seconds"] == ("" if trial.seconds is None else str(trial.seconds))
        assert line["command"] == trial.command
        assert (line["entry"], line["trials_in_pass"]) == (trial.entry, str(trial.trials_in_pass))
    assert {line["title"] for line in lines} >= {"LoRA", "Full fine-tuning"}


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", " =1", "＝1", "\r=1"])
def test_a_text_that_would_be_a_formula_gets_an_apostrophe(
    text: str, make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trial = make_trial(base=text, status="failed", reason=text, command=text, id="a", metric=text)
    (line,) = lines_of(spreadsheet(make_comparison_of(trial)))
    assert [line[name] for name in ("base", "reason", "command", "metric")] == [f"'{text}"] * 4


def test_names_of_metrics_are_guarded_too(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    (line,) = lines_of(spreadsheet(make_comparison_of(make_trial(test={"=1": -0.5}))))
    assert line["test_=1"] == "-0.5"


@pytest.mark.parametrize("text", ["plain", "a = b", "1", ""])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert harmless(text) == text


def test_texts_with_commas_quotes_and_lines_are_read_back(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    text = 'one, "two"\nthree | four'
    (line,) = lines_of(spreadsheet(make_comparison_of(make_trial(status="failed", reason=text))))
    assert line["reason"] == text
