"""Example answers of all contenders of a base, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from petune.comparison.reporting.contenders import Contender


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """What one contender answered."""

    contender: Contender
    text: str

    right: bool
    """Whether it is the reference, white space around it aside."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A row of the test split and the answers to it."""

    prompt: str
    reference: str | None
    answers: tuple[Answer, ...]


def answers_of(contenders: Sequence[Contender]) -> list[Asked]:
    """Return the rows in the order in which they first appear, each with the answers of those who have one."""
    rows: dict[tuple[str, str | None], list[Answer]] = {}
    for contender in contenders:
        for example in contender.examples:
            right = example.reference is not None and example.answer.strip() == example.reference.strip()
            answers = rows.setdefault((example.prompt, example.reference), [])
            answers.append(Answer(contender, example.answer, right))
    return [Asked(prompt, reference, tuple(answers)) for (prompt, reference), answers in rows.items()]
