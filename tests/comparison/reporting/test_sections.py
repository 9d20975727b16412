"""What the report says, and in which order."""

from collections.abc import Callable
from html import unescape

from petune.comparison.record import Comparison, SearchCost, Trial
from petune.comparison.reporting.markdown import markdown_page
from petune.comparison.reporting.page import html_page
from petune.comparison.reporting.sections import report_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_made_up_comparison_is_all_there(comparison: Comparison) -> None:
    report = report_of(comparison)
    assert report.title == "8 methods compared on 2 bases"
    assert (
        plain(report.summary) == "109 trials, 3 seeds, 512,000 tokens each, 200 test rows. Begun 2026-03-01 09:30 UTC."
    )
    assert [section.standing.base for section in report.sections] == list(
        dict.fromkeys(t.base for t in comparison.trials)
    )
    assert all(len(section.tables) == 4 for section in report.sections)
    assert [len(searches) for _, searches in report.searches] == [7, 6]
    assert len(report.uses) == 4
    assert dict(report.facts)["SHA-256 of examples/reviews.jsonl"] == "3f" * 32
    assert report.recipe.startswith("models:\n- HuggingFaceTB/SmolLM2-135M\n")


def test_the_best_and_the_cheapest_as_good_stand_out(comparison: Comparison) -> None:
    first, second = report_of(comparison).sections
    assert [highlight.title for highlight in first.highlights] == [
        "Best",
        "Smallest within its noise",
        "Least memory within its noise",
        "Least time within its noise",
    ]
    assert first.highlights[0].contender is first.standing.best
    assert all(highlight.contender in second.standing.front for highlight in second.highlights)


def test_the_cost_of_the_search_is_told(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    cost = SearchCost(trials=12, seconds=90.0, tokens=1_500_000)
    report = report_of(make_comparison_of(make_trial(scores=[1.0]), search_cost=cost))
    assert plain(report.search_summary).startswith("12 short trials took 1 min 30 s and 1.50 M tokens.")


def test_which_adapter_was_kept_is_told(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    def kept(**recipe: bool) -> str:
        return dict(report_of(make_comparison_of(make_trial(scores=[1.0]), recipe=recipe)).meanings)["adapter"]

    assert kept() == "what is kept and measured of a training: that of the least validation loss"
    last = kept(load_best_model_at_end=False)
    assert last == "what is kept and measured of a training: that of the last step, whatever the validation loss"
    page = markdown_page(
        report_of(make_comparison_of(make_trial(scores=[1.0]), recipe={"load_best_model_at_end": False}))
    )
    assert last in page


def test_the_commands_lead_to_where_the_comparison_was_started(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    report = report_of(make_comparison_of(make_trial(scores=[1.0]), started_from="../my project"))
    assert report.repeat == "cd '../my project'\npetune compare recipe.yaml"
    for page in (markdown_page(report), unescape(html_page(report))):
        assert report.repeat in page
        assert "from the folder of this report:" in page
    old = report_of(make_comparison_of(make_trial(scores=[1.0])))
    assert old.repeat == "petune compare recipe.yaml"
    assert "To repeat all of it, from the folder that the comparison was started from:" in markdown_page(old)


def test_bytes_among_the_facts_get_a_unit(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    report = report_of(make_comparison_of(make_trial(scores=[1.0]), machine={"memory_bytes": 2**34, "cores": 2}))
    assert [(name, plain(value)) for name, value in report.facts[-2:]] == [("memory", "16.0 GiB"), ("cores", "2")]


def test_where_nothing_was_measured_each_method_still_has_its_row(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    (section,) = report_of(make_comparison_of(make_trial(status="failed", reason="it broke"))).sections
    ((table, lines),) = section.tables
    assert (table.name, [line.contender.method for line in lines]) == ("quality", ["lora"])
    assert section.highlights == []


def test_a_comparison_without_trials_is_an_empty_report(make_comparison_of: MakeComparison) -> None:
    report = report_of(make_comparison_of())
    assert (report.title, report.sections, report.uses) == ("0 methods compared", [], [])
