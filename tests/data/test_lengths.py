"""How long a row may be: the user's word, the tokenizer's, the model's positions, and those an adapter takes."""

import pytest

from petune.data.examples import Example, ExampleSet, Segment
from petune.data.lengths import encode_within, resolve_max_length
from petune.errors import DataError


def rows(*texts: str) -> ExampleSet:
    examples = [
        Example(f"rows.jsonl:{i}", (Segment(text, True),), "", None, None, {}, add_special_tokens=False)
        for i, text in enumerate(texts, start=1)
    ]
    return ExampleSet(examples, source="rows.jsonl", layout="text")


@pytest.mark.parametrize(
    ("asked", "tokenizer_limit", "model_limit", "virtual_tokens", "expected"),
    [
        (None, 10**30, None, 0, 4096),
        (None, 512, None, 0, 512),
        (None, 10**30, 1024, 0, 1024),
        (None, 10**30, 131_072, 0, 4096),
        (None, 1024, 1024, 20, 1004),
        (None, 10**30, 131_072, 20, 4096),
        (None, 512, None, 20, 512),
        (700, 512, 1024, 0, 700),
        (1004, 512, 1024, 20, 1004),
        (9000, 512, None, 20, 9000),
    ],
)
def test_longest_row(tokenizer, asked, tokenizer_limit, model_limit, virtual_tokens, expected):
    tokenizer.model_max_length = tokenizer_limit
    found = resolve_max_length(asked, tokenizer, model_limit=model_limit, virtual_tokens=virtual_tokens)
    assert found == expected


@pytest.mark.parametrize(
    ("asked", "virtual_tokens", "message"),
    [
        (2000, 0, "--max-length 2000 is more than the model allows: it has 1,024 positions; use --max-length 1024"),
        (1010, 20, "it has 1,024 positions, of which the adapter's virtual tokens take 20; use --max-length 1004"),
        (None, 1023, "1,024 positions, of which .* take 1,023: no row fits; use fewer virtual tokens"),
    ],
)
def test_longer_than_the_model(tokenizer, asked, virtual_tokens, message):
    with pytest.raises(DataError, match=message):
        resolve_max_length(asked, tokenizer, model_limit=1024, virtual_tokens=virtual_tokens)


def test_rows_that_fit_the_model_but_not_the_virtual_tokens_are_overlong(tokenizer):
    text = "a quiet film about trains"
    size = len(tokenizer(text)["input_ids"])
    assert len(encode_within(rows(text), tokenizer, model_limit=size).rows) == 1
    with pytest.raises(DataError, match=rf"1 of 1 rows are longer than {size - 2} tokens \(the longest has {size}"):
        encode_within(rows(text), tokenizer, model_limit=size, virtual_tokens=2)
    report = encode_within(rows(text, "short"), tokenizer, overlong="drop", model_limit=size, virtual_tokens=2).report
    assert (report.rows_kept, report.max_length) == (1, size - 2)


def test_a_longer_maximum_is_offered_only_where_the_model_has_room(tokenizer):
    text = "a quiet film about trains"
    size = len(tokenizer(text)["input_ids"])
    with pytest.raises(DataError, match=rf"choose --max-length {size} to keep them whole, --overlong drop"):
        encode_within(rows(text), tokenizer, max_length=2, model_limit=size)
    with pytest.raises(DataError, match=r"\); shorten them, --overlong drop to leave them out"):
        encode_within(rows(text), tokenizer, max_length=2, model_limit=size - 1)
