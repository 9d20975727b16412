import pytest

from petune.evaluation.spans import span_exact_match, span_f1


def test_case_punctuation_and_articles_do_not_count() -> None:
    assert span_exact_match(["The Rome.", "Paris"], [["rome"], ["London", "Paris"]]) == 1
    assert span_exact_match(["in Rome"], [["Rome"]]) == 0


def test_f1_of_shared_words() -> None:
    assert span_f1(["in old Rome"], [["Rome", "old town Rome"]]) == pytest.approx(2 * 2 / 6)
    assert span_f1(["北京市"], [["北京"]]) == pytest.approx(2 * 2 / 5)
    assert span_f1(["", "x"], [[""], [""]]) == 0.5
