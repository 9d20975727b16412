import pytest

from petune.data.answers import answer_starts, answer_texts
from petune.data.problems import RowProblem


@pytest.mark.parametrize(
    ("answers", "texts", "starts"),
    [
        ("Rome", ["Rome"], [None]),
        (["Rome", "Roma"], ["Rome", "Roma"], [None, None]),
        ({"text": ["Rome"], "answer_start": [7]}, ["Rome"], [7]),
        ({"text": "Rome", "answer_start": 7}, ["Rome"], [7]),
        ([{"text": "Rome", "answer_start": 7}], ["Rome"], [7]),
        ({"text": [], "answer_start": []}, [], []),
    ],
)
def test_forms(answers: object, texts: list[str], starts: list[int | None]) -> None:
    assert answer_texts(answers) == texts
    assert answer_starts(answers, len(texts)) == starts


def test_unknown_form() -> None:
    with pytest.raises(RowProblem, match="'answers' is a number, expected a string"):
        answer_texts(3)
