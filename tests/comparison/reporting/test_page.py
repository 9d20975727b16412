"""The HTML page: whole in itself, sound, and safe from the texts it shows; in a real browser too."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from petune.comparison.record import Comparison, ExampleAnswer, SearchCost, Trial
from petune.comparison.report import write_report
from petune.comparison.reporting.page import html_page
from petune.comparison.reporting.sections import report_of

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]
Browser = Any

OWN_FILES = {"report.md", "report.csv", "report.json"}
EVIL = "<script>alert('x')</script><img src=http://example.org/a.png onerror=alert(1)>\"'</pre></style>&amp;{{ 7 * 6 }}"
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Collects what a page holds, and sees that every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All of its text, without the style sheet."""
        return " ".join("".join(self.texts).split())

    def values(self, *names: str) -> list[str]:
        """Return the values of attributes."""
        return [attributes[name] for _, attributes in self.tags for name in names if name in attributes]


@pytest.fixture(scope="module")
def page(comparison: Comparison) -> Page:
    return Page(html_page(report_of(comparison)))


def test_the_page_asks_for_nothing(page: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "form", "img", "base"} & {tag for tag, _ in page.tags}
    assert page.values("src", "srcset", "action", "background", "style") == []
    links = [value for value in page.values("href") if not value.startswith("#")]
    assert set(links) == {*OWN_FILES, "data:,"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "url(" not in "".join(page.texts)
    assert "@import" not in "".join(page.texts)
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_links_and_names_agree(page: Page) -> None:
    names = page.values("id")
    assert len(names) == len(set(names))
    links = [value.removeprefix("#") for value in page.values("href") if value.startswith("#")]
    labels = [name for value in page.values("aria-labelledby") for name in value.split()]
    assert len(links) > 60
    assert set(links) | set(labels) <= set(names)


def test_all_that_was_asked_for_is_shown(page: Page, comparison: Comparison) -> None:
    headings = [
        "In plain words", "Quality and size", "Learning and overfitting", "Cost", "Forgetting", "Quality against cost",
        "Distance from the best", "Learning curves", "Example answers", "The search for settings", "To use the winner",
        "To repeat it", "About this comparison",
    ]  # fmt: skip
    reasons = [trial.reason for trial in comparison.trials if trial.reason is not None]
    assert len(set(reasons)) == 3
    for words in (*headings, *reasons, "out of memory", "refused", "评论：房间很小", comparison.command):
        assert words in page.text
    assert all(" ".join(trial.command.split()) in page.text for trial in comparison.trials if trial.stage != "search")
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 * (1 + 3) + 7 + 5 + 2 * 4 + 13 + 2 * 3
    assert "Not finished." not in page.text


def test_pictures_have_names_for_those_who_do_not_see_them(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    shown = [attributes for attributes in pictures if attributes.get("aria-hidden") != "true"]
    assert len(shown) == 20 + 13
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes in shown)


@pytest.fixture
def evil(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> Comparison:
    """A comparison whose every text tries to be markup."""
    shared: dict[str, Any] = {"base": EVIL, "settings": {EVIL: EVIL}, "command": EVIL, "metric": EVIL}
    trials = [
        make_trial(
            method, id="a", scores=[1.0, score], test={EVIL: score}, development={EVIL: score}, seconds=10.0 * score,
            adapter=EVIL.replace("/", ""), examples=[ExampleAnswer(prompt=EVIL, reference=EVIL, answer=EVIL)], **shared,
        )
        for method, score in (("lora", 0.5), (EVIL, 0.25))
    ]  # fmt: skip
    trials.append(make_trial("ia3", id="b", status="failed", reason=EVIL, **shared))
    trials.append(make_trial("ia3", id="c", stage="search", rung=0, status="failed", reason=EVIL, **shared))
    return make_comparison_of(
        *trials, recipe={EVIL: [EVIL]}, machine={EVIL: EVIL}, data={EVIL: EVIL}, command=EVIL, created=EVIL,
        petune_version=EVIL, search_cost=SearchCost(trials=1),
    )  # fmt: skip


def test_texts_of_the_records_stay_texts(evil: Comparison) -> None:
    page = Page(html_page(report_of(evil)))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("{{ 7 * 6 }}") > 20
    assert "<script>alert('x')</script>" in page.text


def test_an_unfinished_comparison_says_so(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    page = Page(html_page(report_of(make_comparison_of(make_trial(scores=[1.0])))))
    assert "Not finished." in page.text
    assert "Not measured: learning and overfitting, cost, forgetting." in page.text


def test_a_comparison_without_trials_is_a_page(make_comparison_of: MakeComparison) -> None:
    assert "0 methods compared" in Page(html_page(report_of(make_comparison_of()))).text


@pytest.fixture(scope="module")
def report(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up comparison's page on the disk."""
    return write_report(comparison, tmp_path_factory.mktemp("report"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_complaint(browser: Browser, report: Path, width: int, dark: bool) -> None:
    browser.open(report, width=width, dark=dark)
    assert browser.requests == [report.as_uri()]
    assert browser.complaints == []
    # Nothing sticks out at the side, and nothing is written over the edge of a picture.
    assert browser.value("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('svg text')].filter(text => {
        const box = text.getBoundingClientRect(), card = text.closest('figure').getBoundingClientRect();
        return box.left < card.left || box.right > card.right || box.top < card.top || box.bottom > card.bottom;
    }).map(text => text.textContent)"""
    assert browser.value(outside) == []
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) is dark


@pytest.mark.slow
def test_a_browser_runs_nothing_of_the_records(browser: Browser, evil: Comparison, tmp_path: Path) -> None:
    page = write_report(evil, tmp_path)[0]
    browser.open(page, width=1280, dark=False)
    assert browser.requests == [page.as_uri()]
    assert browser.complaints == []
    assert browser.value("document.scripts.length + document.images.length") == 0


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read_against_its_ground(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, width=1280, dark=dark)
    faint = """(() => {
        const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
        const ground = node => {
            for (; node; node = node.parentElement) {
                const colour = numbers(getComputedStyle(node).backgroundColor);
                if (colour.length < 4 || colour[3] > 0) return colour;
            }
            return [255, 255, 255];
        };
        const found = new Set();
        for (const node of document.querySelectorAll('body *')) {
            if (![...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())) continue;
            if (['title', 'desc'].includes(node.tagName)) continue;
            const style = getComputedStyle(node);
            const [one, two] = [light(numbers(node.ownerSVGElement ? style.fill : style.color)), light(ground(node))];
            const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
            if (contrast < 4.5) found.add(node.tagName + ': ' + node.textContent);
        }
        return [...found];
    })()"""
    assert browser.value(faint) == []
