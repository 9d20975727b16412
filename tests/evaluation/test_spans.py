import re
import string
from collections import Counter

import pytest

from petune.evaluation.spans import span_exact_match, span_f1


def test_case_punctuation_and_articles_do_not_count() -> None:
    assert span_exact_match(["The Rome.", "Paris"], [["rome"], ["London", "Paris"]]) == 1
    assert span_exact_match(["in Rome"], [["Rome"]]) == 0


def test_f1_of_shared_words() -> None:
    assert span_f1(["in old Rome"], [["Rome", "old town Rome"]]) == pytest.approx(2 * 2 / 6)
    assert span_f1(["北京市"], [["北京"]]) == pytest.approx(2 * 2 / 5)
    assert span_f1(["", "x"], [[""], [""]]) == 0.5


def official(prediction: str, reference: str) -> tuple[float, float]:
    """Exact match and F1 as the paper defines them, for English."""

    def plain(text: str) -> list[str]:
        kept = "".join(character for character in text.lower() if character not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", kept).split()

    found, right = plain(prediction), plain(reference)
    shared = sum((Counter(found) & Counter(right)).values())
    return float(found == right), 2 * shared / (len(found) + len(right)) if shared else float(found == right)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("U.S.", "the US"),
        ("1,000 men", "1000 men"),
        ("well-known", "well known"),
        ("don't", "dont"),
        ("$5 million", "5 million"),
        ("A. N. Other's", "others"),
        ("in_between days", "days in between"),
        ("€5", "5"),
    ],
)
def test_english_is_compared_as_squad_does(prediction: str, reference: str) -> None:
    measured = span_exact_match([prediction], [[reference]]), span_f1([prediction], [[reference]])
    assert measured == pytest.approx(official(prediction, reference))
