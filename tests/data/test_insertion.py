"""Virtual tokens and anchors written into rendered rows, and the token ids that come of it."""

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from petune.data.encoding import IGNORED, Encoded, encode
from petune.data.examples import Example, ExampleSet, Segment
from petune.data.insertion import with_virtual_tokens
from petune.data.tokens import tokenise
from petune.errors import DataError
from petune.sites.placement import Insertion, Placement

FIRST = 5000
TEMPLATE = Placement.of_template("Review: {p*2} {text} {p} the answer: {mask}")


def pair(prompt: str = "The film was dull", target: str = " so long", *, learn_all: bool = False) -> Example:
    segments = (Segment(prompt, learn_all), Segment(target, learned=True))
    return Example("rows.jsonl:1", segments, prompt, target.strip(), None, {}, add_special_tokens=True)


def encode_one(tokenizer: PreTrainedTokenizerFast, row: Example, placement: Placement, **options: Any) -> Encoded:
    settings = {"max_length": 200, "eos": False, **options}
    rows = ExampleSet([row], source="rows.jsonl", layout="prompt-completion")
    return encode(rows, tokenizer, insertions=[Insertion(placement, FIRST)], **settings).rows[0]


@pytest.fixture
def with_bos(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, made to begin each text with a token and to end it with one."""
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|end|>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|end|>", special_tokens=[("<|im_start|>", start), ("<|end|>", end)]
    )
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


@pytest.mark.parametrize("learn_all", [False, True])
@pytest.mark.parametrize("place", ["prepend", "after_bos", "append"])
def test_named_places(with_bos: PreTrainedTokenizerFast, place: Any, learn_all: bool) -> None:
    row = encode_one(with_bos, pair(learn_all=learn_all), Placement.at(place, 2))
    bos, *prompt = with_bos("The film was dull")["input_ids"][:-1]
    answer = with_bos(" so long", add_special_tokens=False)["input_ids"]
    own, end = [FIRST, FIRST + 1], [with_bos.eos_token_id]
    expected = {
        "prepend": [*own, bos, *prompt, *answer, *end],
        "after_bos": [bos, *own, *prompt, *answer, *end],
        "append": [bos, *prompt, *own, *answer, *end],
    }[place]
    assert row.input_ids == expected
    learned = [*prompt, *answer] if learn_all else answer
    assert [label for label in row.labels if label != IGNORED] == learned
    assert all(label in (token, IGNORED) for token, label in zip(row.input_ids, row.labels, strict=True))


def test_a_template_with_anchors(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode_one(tokenizer, pair(), TEMPLATE)
    pieces = ["Review:", " The film was dull", " the answer:", " so long"]
    review, text, anchor, answer = (tokenizer(piece)["input_ids"] for piece in pieces)
    assert row.input_ids == [*review, FIRST, FIRST + 1, *text, FIRST + 2, *anchor, *answer]
    assert row.labels == [IGNORED] * (len(row.input_ids) - len(answer)) + answer
    placed = with_virtual_tokens(pair(), [Insertion(TEMPLATE, FIRST)])
    assert placed.prompt == "Review: The film was dull the answer:"
    assert "".join(segment.text for segment in placed.segments) == f"{placed.prompt} so long"


def test_two_adapters_write_into_one_row(tokenizer: PreTrainedTokenizerFast) -> None:
    insertions = [Insertion(Placement.at("append", 2), FIRST), Insertion(Placement.at("prepend", 1), FIRST + 2)]
    rows = ExampleSet([pair()], source="rows.jsonl", layout="prompt-completion")
    (row,) = encode(rows, tokenizer, max_length=50, insertions=insertions).rows
    assert row.input_ids[0] == FIRST + 2
    assert tokenizer.decode(row.input_ids[1 : row.input_ids.index(FIRST)]) == "The film was dull"


def test_a_token_that_straddles_stands_behind(tokenizer: PreTrainedTokenizerFast) -> None:
    row = encode_one(tokenizer, pair("The fi", "lm was dull"), Placement.at("append", 1))
    place = row.input_ids.index(FIRST)
    before, behind = (tokenizer.decode(ids) for ids in (row.input_ids[:place], row.input_ids[place + 1 :]))
    assert (before, behind) == ("The", " film was dull")
    assert all(label != IGNORED for label in row.labels[place + 1 :])


def test_a_token_that_a_chat_template_begins_with(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.bos_token = "<|im_start|>"
    text = "<|im_start|>user\nhello<|im_end|>"
    row = Example("", (Segment(text, learned=False),), text, None, None, {}, add_special_tokens=False)
    (tokens,) = tokenise([with_virtual_tokens(row, [Insertion(Placement.at("after_bos", 1), FIRST)])], tokenizer)
    assert tokens.ids[:2] == [tokenizer.bos_token_id, FIRST]
    (tokens,) = tokenise([with_virtual_tokens(row, [Insertion(Placement.at("prepend", 1), FIRST)])], tokenizer)
    assert tokens.ids[:2] == [FIRST, tokenizer.bos_token_id]


def test_versions_lie_one_behind_the_other(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = ExampleSet([pair("a quiet"), pair("a dull")], source="rows.jsonl", layout="prompt-completion")
    found = encode(
        rows, tokenizer, max_length=50, insertions=[Insertion(Placement.at("prepend", 2, versions=3), FIRST)]
    )
    assert [row.input_ids[:2] for row in found.rows] == [
        [FIRST + 2 * (i % 3), FIRST + 2 * (i % 3) + 1] for i in range(6)
    ]
    assert found.rows[0].input_ids[2:] == found.rows[2].input_ids[2:] != found.rows[3].input_ids[2:]
    assert found.report.rows_kept == 2


def test_the_report_shows_where_virtual_tokens_stand(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = ExampleSet([pair()], source="rows.jsonl", layout="prompt-completion")
    report = encode(rows, tokenizer, max_length=50, insertions=[Insertion(TEMPLATE, FIRST)]).report
    assert report.example == "Review:◇◇ The film was dull◇ the answer:⟦ so long<|end|>⟧"


def test_rows_cut_before_their_virtual_tokens_are_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    row = pair(learn_all=True)
    whole = encode_one(tokenizer, row, Placement.at("append", 2))
    place = whole.input_ids.index(FIRST)
    assert encode_one(tokenizer, row, Placement.at("append", 2), max_length=place + 3, overlong="truncate").labels
    with pytest.raises(DataError, match="lies beyond the maximum length"):
        encode_one(tokenizer, row, Placement.at("append", 2), max_length=place + 1, overlong="truncate")


@pytest.mark.parametrize(
    "row",
    [
        Example("rows.jsonl:7", (Segment("all of it", learned=True),), "all of it", None, None, {}, True),
        Example("rows.jsonl:7", (Segment("rewritten", True), Segment(" x", True)), "the prompt", None, None, {}, True),
    ],
)
def test_rows_without_a_prompt_and_its_answer_are_refused(tokenizer: PreTrainedTokenizerFast, row: Example) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:7: virtual tokens belong between prompt and answer"):
        encode_one(tokenizer, row, Placement.at("append", 2))
    assert encode_one(tokenizer, row, Placement.at("prepend", 2)).input_ids[0] == FIRST


class _Slow:
    """A tokenizer written in Python: one token for each character, one before and one behind a text."""

    is_fast = False
    bos_token_id, cls_token_id, eos_token_id = 1, None, 2

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def build_inputs_with_special_tokens(self, ids: list[int]) -> list[int]:
        return [1, *ids, 2]


def test_tokenizers_without_offsets() -> None:
    for placement, expected in (
        (Placement.at("prepend", 1), [FIRST, 1, 97, 98, 2]),
        (Placement.at("after_bos", 1), [1, FIRST, 97, 98, 2]),
        (Placement.at("append", 1), [1, 97, FIRST, 98, 2]),
        (Placement.of_template("c{p}{text}{p}d"), [1, 99, FIRST, 97, FIRST + 1, 100, 98, 2]),
    ):
        row = with_virtual_tokens(pair("a", "b"), [Insertion(placement, FIRST)])
        (tokens,) = tokenise([row], _Slow())  # type: ignore[list-item, arg-type]
        assert tokens.ids == expected
        assert [t for t, learned in zip(tokens.ids, tokens.learned, strict=True) if learned] == [98]
        assert [t for t, added in zip(tokens.ids, tokens.added, strict=True) if added] == [1, 2]
