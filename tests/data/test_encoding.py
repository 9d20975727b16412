import time
from collections.abc import Sequence

import pytest

from petune.data.encoding import IGNORED, encode, kept_whole, marked_text
from petune.data.examples import Example, ExampleSet, Segment
from petune.errors import DataError


def example(*segments: tuple[str, bool], special: bool = True, origin: str = "rows.jsonl:1") -> Example:
    pieces = tuple(Segment(text, is_learned) for text, is_learned in segments)
    return Example(origin, pieces, pieces[0].text, None, None, {}, add_special_tokens=special)


def pair(prompt: str, target: str, **changes) -> Example:
    return example((prompt, False), (target, True), **changes)


def rows_of(*examples: Example) -> ExampleSet:
    return ExampleSet(examples, source="rows.jsonl", layout="prompt-completion")


def learned_ids(row) -> list[int]:
    return [label for label in row.labels if label != IGNORED]


def encode_one(tokenizer, row: Example, **options):
    (encoded,) = encode(rows_of(row), tokenizer, max_length=200, **options).rows
    return encoded


@pytest.mark.parametrize("cut", ["The film| was dull", "The film |was dull", "The fi|lm was dull", "Label:| positive"])
def test_labels_begin_with_the_token_that_holds_the_first_learned_character(tokenizer, cut):
    prompt, target = cut.split("|")
    row = encode_one(tokenizer, pair(prompt, target))

    ids = tokenizer(prompt + target)["input_ids"]
    assert row.input_ids == [*ids, tokenizer.eos_token_id]
    # Oracle: byte-level pieces decode one by one, so token ends are the lengths of decoded prefixes.
    ends = [len(tokenizer.decode(ids[: n + 1])) for n in range(len(ids))]
    expected = [token if end > len(prompt) else IGNORED for token, end in zip(ids, ends, strict=True)]
    assert row.labels == [*expected, tokenizer.eos_token_id]
    assert target in tokenizer.decode(learned_ids(row))


def test_a_straddling_token_is_noted(tokenizer):
    report = encode(rows_of(pair("Label: ", "positive")), tokenizer, max_length=50).report
    assert "in 1 rows one token holds both the end of the prompt and the start" in report.notes[0]
    assert encode(rows_of(pair("Label:", " positive")), tokenizer, max_length=50).report.notes == ()


def test_eos_is_learned_though_it_is_pad(tokenizer):
    assert tokenizer.eos_token_id == tokenizer.pad_token_id
    row = encode_one(tokenizer, pair("hello", " there"))
    assert row.input_ids[-1] == row.labels[-1] == tokenizer.eos_token_id
    assert encode_one(tokenizer, example(("hello there", True))).labels[-1] == tokenizer.eos_token_id


def test_eos_is_not_doubled_nor_added_after_a_chat_template_nor_against_the_wish(tokenizer):
    eos = tokenizer.eos_token_id
    written = encode_one(tokenizer, pair("hello", " there<|end|>"))
    assert written.input_ids.count(eos) == 1
    assert written.labels[-1] == eos
    assert eos not in encode_one(tokenizer, pair("hello", " there", special=False)).input_ids
    assert eos not in encode_one(tokenizer, pair("hello", " there"), eos=False).input_ids


def test_a_tokenizer_that_adds_bos_and_eos_by_itself(tokenizer):
    from tokenizers.processors import TemplateProcessing

    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|end|>"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|end|>", special_tokens=[("<|im_start|>", start), ("<|end|>", end)]
    )
    row = encode_one(tokenizer, pair("hello", " there"))
    assert (row.input_ids[0], row.labels[0]) == (start, IGNORED)
    assert row.input_ids.count(end) == 1
    assert row.labels[-1] == end
    assert tokenizer.decode(learned_ids(row)) == " there<|end|>"


def test_assistant_turns_are_learned_each(tokenizer):
    turns = example(("user: hello", False), (" good<|im_end|>", True), ("\nuser: so", False), (" b<|im_end|>", True))
    assert marked_text(encode_one(tokenizer, turns, eos=False), tokenizer) == (
        "user: hello⟦ good<|im_end|>⟧\nuser: so⟦ b<|im_end|>⟧"
    )


def test_learned_segments_side_by_side_are_one_span(tokenizer):
    row = encode_one(tokenizer, example(("hello th", True), ("ere", True)), eos=False)
    assert row.labels == row.input_ids


def test_characters_of_many_tokens_are_learned_whole(tokenizer):
    row = encode_one(tokenizer, pair("Label:", " 😀é"), eos=False)
    assert tokenizer.decode(learned_ids(row)) == " 😀é"
    assert marked_text(row, tokenizer) == "Label:⟦ 😀é⟧"


class _SlowTokenizer:
    """A tokenizer written in Python: words as ids, no offsets, a start token of its own."""

    is_fast = False
    eos_token_id = 0

    def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [len(word) + 1 for word in text.split()]}

    def build_inputs_with_special_tokens(self, ids: Sequence[int]) -> list[int]:
        return [1, *ids]

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return " ".join(map(str, ids))


def test_a_tokenizer_without_offsets_goes_segment_by_segment():
    row = encode_one(_SlowTokenizer(), pair("ab abc", " abcd"))
    assert row.input_ids == [1, 3, 4, 5, 0]
    assert row.labels == [IGNORED, IGNORED, IGNORED, 5, 0]


LONG = pair("The film was a quiet joy", " from start to end", origin="rows.jsonl:7")
SHORT = pair("hello", " you")


def test_overlong_rows_are_an_error_that_names_how_many_and_the_choices(tokenizer):
    size = len(encode_one(tokenizer, LONG).input_ids)
    with pytest.raises(DataError) as caught:
        encode(rows_of(SHORT, LONG, SHORT), tokenizer, max_length=size - 1)
    assert str(caught.value) == (
        f"1 of 3 rows are longer than {size - 1} tokens (the longest has {size}, at rows.jsonl:7); choose "
        f"--max-length {size} to keep them whole, --overlong drop to leave them out, or --overlong truncate "
        f"to keep the first {size - 1} tokens of each"
    )


def test_overlong_rows_are_dropped_and_counted(tokenizer):
    encoded = encode(rows_of(SHORT, LONG), tokenizer, max_length=8, overlong="drop")
    assert [row.origin for row in encoded.rows] == ["rows.jsonl:1"]
    assert encoded.report.dropped == {"longer than the maximum length of 8 tokens": 1}
    assert (encoded.report.rows_read, encoded.report.rows_kept, encoded.report.rows_cut) == (2, 1, 0)


def test_truncation_keeps_the_front_and_counts(tokenizer):
    full = encode_one(tokenizer, LONG)
    limit = len(full.input_ids) - 2
    encoded = encode(rows_of(LONG), tokenizer, max_length=limit, overlong="truncate")
    assert encoded.rows[0].input_ids == full.input_ids[:limit]
    assert encoded.rows[0].labels == full.labels[:limit]
    assert encoded.report.rows_cut == 1


def test_a_row_whose_labels_are_all_cut_away_is_dropped_and_counted(tokenizer):
    late = pair("The film was a quiet joy from start to end.", " yes")
    encoded = encode(rows_of(SHORT, late), tokenizer, max_length=8, overlong="truncate")
    assert encoded.report.dropped == {"the learned part lies beyond the maximum length of 8 tokens": 1}
    assert encoded.report.rows_kept == 1


def test_rows_with_nothing_to_learn_are_dropped_and_counted(tokenizer):
    empty = [pair("hello", "  "), example(("", True)), example(("hello", False))]
    report = encode(rows_of(SHORT, *empty), tokenizer, max_length=50).report
    assert sum(report.dropped.values()) == 3
    assert "nothing to learn" in next(iter(report.dropped))


def test_the_first_token_alone_cannot_be_learned(tokenizer):
    report = encode(rows_of(SHORT, example((".", True))), tokenizer, max_length=50, eos=False).report
    assert report.dropped == {"nothing to learn (the learned part is no token, or the row's first one alone)": 1}
    whole = encode(rows_of(example(("hello there", True))), tokenizer, max_length=50, eos=False)
    assert whole.report.label_tokens == len(whole.rows[0].input_ids) - 1


@pytest.mark.parametrize("rows", [[pair("hello", "")], [LONG], []])
def test_no_row_left_is_an_error(tokenizer, rows):
    with pytest.raises(DataError, match=r"rows\.jsonl: not one of \d rows has a token to learn \("):
        encode(rows_of(*rows), tokenizer, max_length=4, overlong="drop")


def test_report_counts_tokens(tokenizer):
    encoded = encode(rows_of(SHORT, LONG), tokenizer, max_length=50)
    report = encoded.report
    lengths = sorted(len(row.input_ids) for row in encoded.rows)
    assert (report.lengths["min"], report.lengths["max"]) == (lengths[0], lengths[1])
    assert report.total_tokens == sum(lengths)
    assert report.label_tokens == sum(len(learned_ids(row)) for row in encoded.rows)
    assert report.label_share == report.label_tokens / report.total_tokens
    assert report.example == "hello⟦ you<|end|>⟧"


def test_20_000_short_rows_in_seconds(tokenizer):
    rows = rows_of(*[pair(f"The film number {n} was dull. Label:", " negative") for n in range(20_000)])
    started = time.process_time()
    assert len(encode(rows, tokenizer, max_length=100).rows) == 20_000
    assert time.process_time() - started < 10


def test_rows_kept_whole_are_neither_dropped_nor_cut(tokenizer, caplog):
    empty = pair("nothing", " ", origin="rows.jsonl:3")
    cut = pair("", "one two three four five six seven eight nine ten", origin="rows.jsonl:2")
    examples = rows_of(pair("a", " b"), cut, empty)
    encoded = encode(examples, tokenizer, max_length=6, overlong="truncate")
    assert [row.origin for row in encoded.rows] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert encoded.cut == {"rows.jsonl:2"}
    with caplog.at_level("INFO", logger="petune"):
        whole = kept_whole(examples, encoded)
    assert "the loss alone is measured on 1 of 3 rows, which were cut" in caplog.text
    assert [row.origin for row in whole] == ["rows.jsonl:1"]
    assert (whole.source, whole.layout) == (examples.source, examples.layout)
