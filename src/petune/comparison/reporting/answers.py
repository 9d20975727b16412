"""Example answers of all contenders of a base, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from petune.comparison.record import ExampleAnswer
from petune.comparison.reporting.contenders import Contender


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What one contender answered."""

    contender: Contender
    text: str

    right: bool
    """Whether it is one of the contender's own references, white space around it aside."""

    prompt: str | None
    """How it was asked, where that is not how the row is shown; else None."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A row of the test split and the answers to it."""

    number: int
    """Its number in the test split, from 1; its place among those that are shown where records do not say it."""

    prompt: str
    """As the first contender was asked."""

    references: tuple[str, ...]
    """The answers that are right; empty where none is known."""

    answers: tuple[Answer, ...]


def answers_of(contenders: Sequence[Contender]) -> list[Asked]:
    """Return the rows in the order in which they first appear, each with the answers of those who have one."""
    rows: dict[object, list[tuple[Contender, ExampleAnswer]]] = {}
    for contender in contenders:
        for place, example in enumerate(contender.examples):
            # Records that do not say which row it was: those of the same place and answer.
            key = (place, example.reference) if example.row is None else example.row
            rows.setdefault(key, []).append((contender, example))
    return [_asked(place, answered) for place, answered in enumerate(rows.values(), 1)]


def _asked(place: int, answered: Sequence[tuple[Contender, ExampleAnswer]]) -> Asked:
    shown = answered[0][1]
    answers = [
        Answer(
            contender,
            example.answer,
            example.answer.strip() in map(str.strip, _references(example)),
            None if example.prompt == shown.prompt else example.prompt,
        )
        for contender, example in answered
    ]
    return Asked(shown.row or place, shown.prompt, _references(shown), tuple(answers))


def _references(example: ExampleAnswer) -> tuple[str, ...]:
    return () if example.reference is None else (example.reference, *example.other_references)
