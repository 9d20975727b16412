"""Placements: templates read, token rows and batches with virtual tokens in their places."""

import pytest
import torch

from petune.errors import ConfigError
from petune.sites.placement import Gap, Insertion, Part, Placement, Side, insert_into_batch, insert_into_row

BOS = 2


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("{p*3} {text} {p*3} the answer: {mask}", (3,), (3, " the answer:", Gap.ANSWER)),
        ("{text}{p}", (), (1,)),
        ("Review: {p*2} {text}\nSentiment:", ("Review:", 2, " "), ("\nSentiment:",)),
        ("  {{{text}}} {p*2}{p}{mask}", ("{",), ("}", 2, 1, Gap.ANSWER)),
        ("{p*3} {mask} {p*3} {text} {p*3}", (3, Gap.ANSWER, 3, " "), (3,)),
        ("{mask}: {text} {p}.", (Gap.ANSWER, ": "), (1, ".")),
        ("{p*4} {text} ", (4,), ()),
    ],
)
def test_templates(template: str, before: tuple[Part, ...], after: tuple[Part, ...]) -> None:
    placement = Placement.of_template(template)
    assert (placement.before, placement.after) == (before, after)
    assert not placement.before_special
    assert placement.num_virtual_tokens == sum(p for p in (*before, *after) if isinstance(p, int))
    assert placement.places_answer == ("{mask}" in template)
    assert placement.ends_with_answer == (not placement.places_answer or template.endswith("{mask}"))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{text} the answer:", r"has no virtual token: write \{p\}, or \{p\*3\}"),
        ("{p*3} the answer:", r"needs the slot \{text\} once"),
        ("{p}{text}{text}", r"needs the slot \{text\} once"),
        ("{p*3} {txt}", r"unknown slot \{txt\}\. Did you mean 'text'\?"),
        ("{p*0} {text}", r"unknown slot \{p\*0\}.*N from 1 to 4096"),
        ("{p*9999} {text}", r"unknown slot \{p\*9999\}"),
        ("{p*x} {text}", r"unknown slot \{p\*x\}"),
        ("{text!r} {p}", r"unknown slot \{text\}"),
        ("{} {text} {p}", r"unknown slot \{\}"),
        ("{text {p}", r"malformed \(.*\); double the braces of text"),
        ("{p} {text} {mask} {mask}", r"has the slot \{mask\} twice: a row has one answer"),
    ],
)
def test_bad_templates(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Placement.of_template(template)


def test_places_in_a_row_of_tokens() -> None:
    ids, labels = [BOS, 11, 12, 13, 14], [-100, -100, -100, 13, 14]

    def at(place: str, own: list[int], labels: list[int] | None = None) -> tuple[list[int], list[int]]:
        return insert_into_row(own, Insertion(Placement.at(place, 2), 90), bos_token_id=BOS, labels=labels)

    assert at("prepend", ids, labels) == ([90, 91, *ids], [-100, -100, *labels])
    assert at("after_bos", ids, labels) == ([BOS, 90, 91, 11, 12, 13, 14], [-100, -100, *labels])
    assert at("after_bos", ids[1:])[0] == [90, 91, 11, 12, 13, 14]
    assert at("append", ids, labels) == ([BOS, 11, 12, 90, 91, 13, 14], [-100] * 5 + [13, 14])
    assert at("append", ids) == ([*ids, 90, 91], [-100] * 7)


def test_versions_differ_in_their_virtual_tokens_alone() -> None:
    insertion = Insertion(Placement.at("append", 2, versions=3), 90)
    assert insertion.placement.num_embeddings == 6
    assert insertion.versions([5, 90, 91]) == [[5, 90, 91], [5, 92, 93], [5, 94, 95]]
    assert insertion.holds_all([91, 5, 90])
    assert not insertion.holds_all([5, 90])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_keeps_its_side(side: Side) -> None:
    long, short = [BOS, 11, 12, 13], [21, 22]
    rows = [long, [0, 0, *short]] if side == "left" else [long, [*short, 0, 0]]
    mask = [[1] * 4, [0, 0, 1, 1] if side == "left" else [1, 1, 0, 0]]
    batch = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
    insertions = [[], [Insertion(Placement.at("after_bos", 3), 90)]]
    other: Side = "right" if side == "left" else "left"
    found = insert_into_batch(batch, insertions, bos_token_id=BOS, pad_token_id=0, padding_side=other)
    wide = [90, 91, 92, *short]
    assert found["input_ids"].tolist() == [[0, *long] if side == "left" else [*long, 0], wide]
    assert found["attention_mask"].tolist() == [[0, 1, 1, 1, 1] if side == "left" else [1, 1, 1, 1, 0], [1] * 5]
    assert "labels" not in found
    labelled = {**batch, "labels": torch.tensor(rows)}
    learned = insert_into_batch(labelled, insertions, bos_token_id=BOS, pad_token_id=0, padding_side="left")["labels"]
    assert learned[1].tolist() == [-100] * 3 + short


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_without_padding_is_filled_up_on_the_side_that_is_asked_for(side: Side) -> None:
    batch = {"input_ids": torch.tensor([[11, 12], [21, 22]])}
    insertions = [[], [Insertion(Placement.at("append", 1), 90)]]
    found = insert_into_batch(batch, insertions, bos_token_id=BOS, pad_token_id=0, padding_side=side)
    assert found["input_ids"].tolist() == [[0, 11, 12] if side == "left" else [11, 12, 0], [21, 22, 90]]


@pytest.mark.parametrize(
    ("batch", "placement", "message"),
    [
        ({"inputs_embeds": torch.zeros(1, 2, 3)}, Placement.at("append", 1), "expected input_ids.*got inputs_embeds"),
        (
            {"input_ids": torch.ones(1, 2), "position_ids": torch.ones(1, 2)},
            Placement.at("append", 1),
            "got input_ids, position_ids",
        ),
        ({"input_ids": torch.ones(1, 2)}, Placement.at("append", 1, versions=2), "in several versions"),
        ({"input_ids": torch.ones(1, 2)}, Placement.of_template("{p} {text} {p}"), "template, which needs the text"),
        ({"input_ids": torch.ones(1, 2)}, Placement.of_template("{p} {text} so:"), "template, which needs the text"),
    ],
)
def test_batches_that_cannot_be_written(batch: dict[str, torch.Tensor], placement: Placement, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        insert_into_batch(batch, [[Insertion(placement, 90)]], bos_token_id=BOS, pad_token_id=0, padding_side="left")
