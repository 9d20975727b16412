"""The answers of a question: one text, a list of texts, or SQuAD's lists of texts and of where they start."""

from collections.abc import Mapping
from typing import Any

from petune.data.json_parser import kind
from petune.data.problems import RowProblem


def answer_texts(answers: Any) -> list[str]:
    """Return the texts of the answers; an empty list says that there is none.

    Raises:
        RowProblem: they are in none of the known forms.
    """
    texts = answers.get("text") if isinstance(answers, Mapping) else answers
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, list):
        texts = [text.get("text") if isinstance(text, Mapping) else text for text in texts]
        if all(isinstance(text, str) for text in texts):
            return texts
    raise RowProblem(
        f"'answers' is {kind(answers)}, expected a string, a list of strings or {{'text': [...]}}",
        "write the answers as strings; an empty list says that there is none",
    )


def answer_starts(answers: Any, count: int) -> list[int | None]:
    """Return the character at which each answer starts in its context, where the row says so."""
    if isinstance(answers, Mapping):
        found = answers.get("answer_start")
        found = found if isinstance(found, list) else [found]
    elif isinstance(answers, list):
        found = [a.get("answer_start", a.get("start")) if isinstance(a, Mapping) else None for a in answers]
    else:
        found = [None]
    found = [start if isinstance(start, int) else None for start in found]
    return found if len(found) == count else [None] * count
