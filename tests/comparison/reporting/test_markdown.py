"""The report as Markdown: complete, and nothing in it that a text of the records made."""

import re
from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, ExampleAnswer, Trial
from petune.comparison.reporting.markdown import escaped, fenced, markdown_page
from petune.comparison.reporting.page import html_page
from petune.comparison.reporting.sections import report_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def outside_fences(page: str) -> str:
    return re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> str:
    return markdown_page(report_of(comparison))


def test_every_table_is_even(page: str) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", outside_fences(page), flags=re.MULTILINE)
    assert len(tables) == 2 * 4 + 2 + 1
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def test_links_lead_to_rows(page: str) -> None:
    links = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert len(links) > 20
    assert links <= set(re.findall(r'<a id="([\w-]+)"></a>', page))


def test_nothing_of_the_records_is_markup(page: str) -> None:
    prose = outside_fences(page)
    assert "<script" not in prose
    assert set(re.findall(r"<[^>]*>", prose)) - {"</a>", "<br>"} == set(re.findall(r'<a id="[\w-]+">', prose))
    assert "step 212 \\| see trials/log.txt" in prose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a | b", "a \\| b"),
        ("<script>", "&lt;script&gt;"),
        ("![x](http://example.org/a.png)", "\\!\\[x\\]\\(http://example.org/a.png\\)"),
        ("`code` *strong* _low_", "\\`code\\` \\*strong\\* \\_low\\_"),
        ("# no heading", "\\# no heading"),
        ("- no list", "\\- no list"),
        ("1. no list", "1\\. no list"),
        ("./folder", "./folder"),
        ("two\nlines\t here", "two lines here"),
        ("plain, 1.5 to 2.5 (3 seeds)", "plain, 1.5 to 2.5 \\(3 seeds\\)"),
    ],
)
def test_text_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


def test_a_fence_cannot_be_ended_from_within() -> None:
    text = "```\n# out\n````"
    assert fenced(text) == f"`````text\n{text}\n`````"


def test_answers_are_code_and_failures_have_their_reason(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    good = make_trial(scores=[1.0], examples=[ExampleAnswer(prompt="```\n# out", answer="<b>bold</b>")])
    bad = make_trial("ia3", status="refused", reason="no [place](http://example.org)")
    page = markdown_page(report_of(make_comparison_of(good, bad)))
    assert "````text\n```\n# out\n````" in page
    assert "```text\n<b>bold</b>\n```" in page
    assert "refused: no \\[place\\]\\(http://example.org\\)" in page
    assert "**Not finished.**" in page


def test_a_prompt_of_a_method_s_own_is_shown(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [
        make_trial(method, scores=[1.0], examples=[ExampleAnswer(prompt=f"{method}?", answer="yes", row=1)])
        for method in ("lora", "ia3")
    ]
    report = report_of(make_comparison_of(*trials))
    assert "Asked as:\n\n```text\nia3?\n```\n\nAnswered:\n\n```text\nyes\n```" in markdown_page(report)
    assert '<summary>Asked as</summary><div class="said" dir="auto" tabindex="0">ia3?</div>' in html_page(report)
