"""The reading: every sentence rests on rows, and its figures stand there."""

import re
from collections.abc import Callable

import pytest

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.columns import lines_of
from petune.comparison.reporting.contenders import Contender, contenders_of
from petune.comparison.reporting.notices import notices_of
from petune.comparison.reporting.reading import reading_across, reading_of
from petune.comparison.reporting.sentences import agreeing, anchor, listed
from petune.comparison.reporting.standing import Standing, standings_of
from petune.comparison.reporting.tables import TABLES

MakeTrial = Callable[..., Trial]
MakeComparison = Callable[..., Comparison]


def written_in_rows(standing: Standing, rows: tuple[Contender, ...]) -> str:
    """Return all that the tables say of some contenders."""
    texts = [cell for t in TABLES for line in lines_of(t, standing) if line.contender in rows for cell in line.cells]
    words = [word for cell in texts for word in (cell.text, *cell.notes)]
    return " ".join(
        [*words, *(notice.text for row in rows for notice in notices_of(row)), *(row.set_to for row in rows)]
    )


def test_the_figures_of_a_sentence_stand_in_its_rows(comparison: Comparison) -> None:
    checked = 0
    for standing in standings_of(contenders_of(comparison)):
        for sentence in reading_of(standing):
            assert sentence.rows
            assert set(sentence.rows) <= set(standing.contenders)
            text = re.sub(r"at \S+ of the storage", "", sentence.text)
            for figure in re.findall(r"\d+\.\d+", text):
                assert figure in written_in_rows(standing, sentence.rows), sentence.text
                checked += 1
    assert checked > 40


def test_the_names_in_a_sentence_are_those_of_its_rows(comparison: Comparison) -> None:
    for standing in standings_of(contenders_of(comparison)):
        for sentence in reading_of(standing):
            named = {contender for contender in standing.contenders if contender.label in sentence.text}
            assert named <= set(sentence.rows), sentence.text


def test_a_sentence_links_to_the_table_of_its_figures(comparison: Comparison) -> None:
    standing = standings_of(contenders_of(comparison))[0]
    places = {sentence.text.split(" ", 3)[2]: sentence.place for sentence in reading_of(standing)}
    assert places["overfits"] == "learning"
    assert places["forgets"] == "forgetting"
    sentence = reading_of(standing)[0]
    assert sentence.links == ((standing.contenders[0], anchor(standing.contenders[0], "quality")),)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("lora", "ia3"), ("lora", "ia3"), "LoRA is best, or within the noise of the best, on each of the 2 bases."),
        (("lora", "ia3"), ("ia3", "lora"), "No method is best, or within the noise of the best, on every base."),
    ],
)
def test_several_bases_are_read_together(
    first: tuple[str, str],
    second: tuple[str, str],
    expected: str,
    make_trial: MakeTrial,
    make_comparison_of: MakeComparison,
) -> None:
    trials = [
        make_trial(method, base=base, scores=[score] * 20)
        for base, order in (("a", first), ("b", second))
        for method, score in zip(order, (1.0, 0.0), strict=True)
    ]
    found = reading_across(standings_of(contenders_of(make_comparison_of(*trials))))
    assert [sentence.text for sentence in found] == [expected]


def test_what_is_not_known_of_several_bases_is_not_said(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = [
        make_trial("lora", base="a", scores=[1.0] * 20),
        make_trial("ia3", base="a", test={"accuracy": 0.99}),
        make_trial("ia3", base="b", scores=[1.0] * 20),
        make_trial("lora", base="b", scores=[0.0] * 20),
    ]
    (sentence,) = reading_across(standings_of(contenders_of(make_comparison_of(*trials))))
    assert sentence.text == "No method is known to be best, or within the noise of the best, on every base."


def test_one_base_needs_no_reading_of_several(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    assert reading_across(standings_of(contenders_of(make_comparison_of(make_trial(scores=[1.0]))))) == []


def test_verbs_agree_with_their_methods(make_trial: MakeTrial, make_comparison_of: MakeComparison) -> None:
    trials = [make_trial(method, scores=[1.0]) for method in ("lora", "bottleneck")]
    lora, bottleneck = contenders_of(make_comparison_of(*trials))
    assert [agreeing(who, "is", "are") for who in ([lora], [bottleneck], [lora, lora])] == ["is", "are", "are"]


def test_words_are_listed() -> None:
    assert [listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_an_entry_may_be_set_differently_on_each_base(
    make_trial: MakeTrial, make_comparison_of: MakeComparison
) -> None:
    trials = []
    for base, rate in (("one", 1e-3), ("two", 1e-2)):
        for r, scores in ((8, [1.0] * 50), (16, [0.0] * 50)):
            settings = {"r": r, "learning_rate": rate if r == 8 else 1e-3}
            trials.append(
                make_trial(base=base, id=f"{base}-{r}", settings=settings, scores=scores, entry=f"lora r={r}")
            )
    (sentence,) = reading_across(standings_of(contenders_of(make_comparison_of(*trials))))
    assert sentence.text == "LoRA is best, or within the noise of the best, on each of the 2 bases."
    assert [(row.base, row.entry) for row in sentence.rows] == [("one", "lora r=8"), ("two", "lora r=8")]
