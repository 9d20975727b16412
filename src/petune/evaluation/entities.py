"""Entities in sequences of tags, and how many were found: precision, recall and F1 over all of them (micro).

Tags are IOB, IOB2 or IOBES (``B-PER``, ``I-PER``, ``O``), read as the CoNLL evaluation does: an ``I-`` that follows no
entity of its type begins one. A tag without a prefix is a type of its own; one that is a prefix alone (``B``, ``I``) is
of the one type there is.
"""

from collections.abc import Iterator, Sequence

Tags = Sequence[Sequence[str]]

_BEGINS = frozenset("BSU")
_ENDS = frozenset("ESLU")
_PREFIXES = _BEGINS | _ENDS | {"I", "M"}
_ONE_TYPE = "_"
"""The type of entities whose tags name none."""
OUTSIDE = "O"


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the entities of one row as (type, first word, word after the last)."""
    start, inside, ended = 0, "", True
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, kind = _parts(tag)
        if inside and (not kind or kind != inside or prefix in _BEGINS or ended):
            yield inside, start, place
            inside = ""
        if kind and not inside:
            start, inside = place, kind
        ended = prefix in _ENDS


def entity_scores(predictions: Tags, references: Tags) -> tuple[float, float, float]:
    """Return precision, recall and F1; 0 where there is nothing to divide by."""
    found = {(row, *entity) for row, tags in enumerate(predictions) for entity in entities(tags)}
    wanted = {(row, *entity) for row, tags in enumerate(references) for entity in entities(tags)}
    right = len(found & wanted)
    precision = right / len(found) if found else 0.0
    recall = right / len(wanted) if wanted else 0.0
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


def entity_precision(predictions: Tags, references: Tags) -> float:
    """Return the share of the entities found that are right."""
    return entity_scores(predictions, references)[0]


def entity_recall(predictions: Tags, references: Tags) -> float:
    """Return the share of the entities there are that were found."""
    return entity_scores(predictions, references)[1]


def entity_f1(predictions: Tags, references: Tags) -> float:
    """Return the harmonic mean of precision and recall."""
    return entity_scores(predictions, references)[2]


def tag_accuracy(predictions: Tags, references: Tags) -> float:
    """Return the share of words with the right tag."""
    pairs = [pair for p, r in zip(predictions, references, strict=True) for pair in zip(p, r, strict=True)]
    return sum(p == r for p, r in pairs) / len(pairs)


def _parts(tag: str) -> tuple[str, str]:
    """Return prefix and type of a tag; both empty outside of entities."""
    if tag == OUTSIDE:
        return "", ""
    if tag in _PREFIXES:
        return tag, _ONE_TYPE
    prefix, dash, kind = tag.partition("-")
    return (prefix, kind) if dash and len(prefix) == 1 else ("I", tag)
