"""Answers as pieces of text, compared as SQuAD does (Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250).

Case, punctuation and English articles do not count; of several right answers the best one does. Words are what white
space separates once punctuation is gone, and single characters of scripts written without it.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from petune.evaluation.words import pieces

Answers = Sequence[Sequence[str]]

_ARTICLES = frozenset({"a", "an", "the"})


def span_exact_match(predictions: Sequence[str], references: Answers) -> float:
    """Return the share of predictions equal to one of their references."""
    return _mean(predictions, references, lambda p, r: float(_plain(p) == _plain(r)))


def span_f1(predictions: Sequence[str], references: Answers) -> float:
    """Return the mean F1 of the words that prediction and reference share."""
    return _mean(predictions, references, lambda p, r: _overlap(_plain(p), _plain(r)))


def _mean(predictions: Sequence[str], references: Answers, score: Callable[[str, str], float]) -> float:
    best = [max(score(p, r) for r in right) for p, right in zip(predictions, references, strict=True)]
    return sum(best) / len(best)


def _overlap(prediction: list[str], reference: list[str]) -> float:
    shared = sum((Counter(prediction) & Counter(reference)).values())
    if not prediction or not reference:
        return float(prediction == reference)
    return 2 * shared / (len(prediction) + len(reference))


def _plain(text: str) -> list[str]:
    return [word for word in pieces(text) if word not in _ARTICLES]
