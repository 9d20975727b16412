"""Entities, against the library that the field uses."""

import random

import pytest
from seqeval import metrics

from petune.evaluation.entities import entities, entity_f1, entity_precision, entity_recall, tag_accuracy


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("O O", []),
        ("S-PER B-LOC E-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3), ("LOC", 3, 4)]),
        ("name name O place", [("name", 0, 2), ("place", 3, 4)]),
        ("B-a-b I-a-b", [("a-b", 0, 2)]),
        ("B I O B B I", [("_", 0, 2), ("_", 3, 4), ("_", 4, 6)]),
        ("B M E S", [("_", 0, 3), ("_", 3, 4)]),
    ],
)
def test_entities_of_tags(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert list(entities(tags.split())) == expected


def test_scores_over_all_rows() -> None:
    predictions = [["B-PER", "O", "B-LOC"], ["O", "B-LOC"]]
    references = [["B-PER", "O", "B-PER"], ["B-LOC", "I-LOC"]]
    assert entity_precision(predictions, references) == pytest.approx(1 / 3)
    assert entity_recall(predictions, references) == pytest.approx(1 / 3)
    assert entity_f1(predictions, references) == pytest.approx(1 / 3)
    assert tag_accuracy(predictions, references) == pytest.approx(2 / 5)
    assert entity_f1([["O"]], [["O"]]) == 0


@pytest.mark.parametrize("known", ["O O B-PER I-PER B-LOC I-LOC", "O B I", "O B I E S"])
def test_the_same_as_seqeval(known: str) -> None:
    rng = random.Random(0)
    tags = known.split()
    predictions, references = ([[rng.choice(tags) for _ in range(9)] for _ in range(40)] for _ in range(2))
    assert entity_f1(predictions, references) == pytest.approx(metrics.f1_score(references, predictions))
    assert entity_precision(predictions, references) == pytest.approx(metrics.precision_score(references, predictions))
    assert entity_recall(predictions, references) == pytest.approx(metrics.recall_score(references, predictions))
