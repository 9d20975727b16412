"""Answers side by side."""

from collections.abc import Callable

from petune.comparison.record import Comparison, ExampleAnswer, Trial
from petune.comparison.reporting.answers import answers_of
from petune.comparison.reporting.contenders import contenders_of
from petune.comparison.reporting.markdown import markdown_page
from petune.comparison.reporting.page import html_page
from petune.comparison.reporting.sections import report_of


def test_answers_to_one_row_stand_together(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    def answering(method: str, *answers: tuple[str, str | None, str]) -> Trial:
        examples = [
            ExampleAnswer(prompt=prompt, reference=reference, answer=answer) for prompt, reference, answer in answers
        ]
        return make_trial(method, scores=[1.0], examples=examples)

    contenders = contenders_of(
        make_comparison_of(
            answering("lora", ("one?", "yes", " yes\n"), ("two?", None, "maybe")),
            answering("ia3", ("one?", "yes", "no"), ("three?", "3", "3")),
            make_trial("bitfit", scores=[1.0]),
        )
    )
    found = answers_of(contenders)
    assert [(asked.prompt, asked.references) for asked in found] == [
        ("one?", ("yes",)),
        ("two?", ()),
        ("three?", ("3",)),
    ]
    assert [(answer.contender.method, answer.right) for answer in found[0].answers] == [("lora", True), ("ia3", False)]
    assert not found[1].answers[0].right


def test_each_of_several_answers_is_right(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    def answering(method: str, answer: str) -> Trial:
        example = ExampleAnswer(prompt="where?", reference="Paris", other_references=["in Paris"], answer=answer)
        return make_trial(method, scores=[1.0], examples=[example])

    comparison = make_comparison_of(answering("lora", "in Paris"), answering("ia3", "Paris in Paris"))
    (asked,) = answers_of(contenders_of(comparison))
    assert asked.references == ("Paris", "in Paris")
    assert [answer.right for answer in asked.answers] == [True, False]
    report = report_of(comparison)
    assert "Right answer: Paris or in Paris\n" in markdown_page(report)
    assert "<bdi>Paris</bdi> or <bdi>in Paris</bdi>" in html_page(report)


def test_a_row_asked_in_other_words_is_the_same_row(
    make_trial: Callable[..., Trial], make_comparison_of: Callable[..., Comparison]
) -> None:
    def answering(method: str, *answers: tuple[int | None, str, str]) -> Trial:
        examples = [
            ExampleAnswer(prompt=prompt, reference=reference, answer="yes", row=row)
            for row, prompt, reference in answers
        ]
        return make_trial(method, scores=[1.0], examples=examples)

    def found(*trials: Trial) -> list[tuple[str, list[str | None], list[bool]]]:
        asked = answers_of(contenders_of(make_comparison_of(*trials)))
        return [(a.prompt, [b.prompt for b in a.answers], [b.right for b in a.answers]) for a in asked]

    lora = answering("lora", (2, "two?", "yes"), (4, "four?", "no"))
    assert found(lora, answering("ia3", (1, "one!", "yes"), (2, "Is it two?", "Yes"))) == [
        ("two?", [None, "Is it two?"], [True, False]),
        ("four?", [None], [False]),
        ("one!", [None], [True]),
    ]
    report = report_of(make_comparison_of(lora))
    assert [asked.number for asked in report.sections[0].asked] == [2, 4]
    assert "**Test row 4**" in markdown_page(report)
    assert "<summary>Test row 4<" in html_page(report)
    old = [
        answering(method, (None, f"{method} one?", "yes"), (None, f"{method} two?", "no")) for method in ("lora", "ia3")
    ]
    assert found(*old) == [
        ("lora one?", [None, "ia3 one?"], [True, True]),
        ("lora two?", [None, "ia3 two?"], [False, False]),
    ]
