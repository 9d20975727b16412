"""Rows with a gap: where it stands, what fills it, and rows that cannot have one."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from petune.data.cloze import encode_cloze
from petune.data.encoding import IGNORED, Encoded, EncodedSet
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.errors import ConfigError, DataError
from petune.sites.placement import Insertion, Placement

Tokenizers = Callable[[str], PreTrainedTokenizerFast]
FIRST = 500
ROWS = [{"text": "a dull film", "label": "bad"}, {"text": "a joy", "label": "good"}]


@pytest.fixture
def encode(tmp_path: Any, write_rows: Callable[..., Any], word_tokenizer: Tokenizers) -> Callable[..., EncodedSet]:
    """Encode rows with a tokenizer of words: ``encode("bert", template=..., placement=..., rows=...)``."""

    def build(
        architecture: str = "bert",
        rows: list[dict[str, Any]] = ROWS,
        *,
        labels: tuple[str, ...] = ("bad", "good"),
        placement: Placement | None = None,
        limits: dict[str, Any] | None = None,
        **options: Any,
    ) -> EncodedSet:
        path = write_rows(tmp_path / "rows.jsonl", rows)
        examples = load_examples(DataOptions(data=str(path), **{"template": "{{ text }}", **options}), None)
        insertions = () if placement is None else (Insertion(placement, FIRST),)
        settings = {"max_length": 99, "insertions": insertions, **(limits or {})}
        return encode_cloze(examples, word_tokenizer(architecture), labels=labels, **settings)

    return build


def shown(row: Encoded, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the tokens of a row, P for a virtual one, its labels in the place of the masks."""
    mask = tokenizer.mask_token_id
    assert [t for t, label in enumerate(row.labels) if label != IGNORED] == [
        t for t, token in enumerate(row.input_ids) if token == mask
    ]
    names = [label if token == mask else token for token, label in zip(row.input_ids, row.labels, strict=True)]
    return ["P" if token >= FIRST else str(tokenizer.convert_ids_to_tokens(token)) for token in names]


@pytest.mark.parametrize(
    ("template", "bert", "roberta"),
    [
        ("{{ text }} it was {{ mask }}.", "a dull film it was [bad] .", "a Ġdull Ġfilm Ġit Ġwas [Ġbad] ."),
        ("{{ text }}: {{ mask }}", "a dull film : [bad]", "a Ġdull Ġfilm : [Ġbad]"),
        ("{{ mask }}: {{ text }}", "[bad] : a dull film", "[Ġbad] : Ġa Ġdull Ġfilm"),
        ("so {{ mask }}! {{ text }}", "so [bad] ! a dull film", "so [Ġbad] ! Ġa Ġdull Ġfilm"),
    ],
)
def test_gaps_of_the_rows_own_template(
    template: str, bert: str, roberta: str, encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers
) -> None:
    for architecture, expected in (("bert", bert), ("roberta", roberta)):
        row = encode(architecture, template=template).rows[0]
        tokens = expected.replace("[", "").replace("]", "").split()
        assert shown(row, word_tokenizer(architecture)) == ["<s>", *tokens, "</s>"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{p*2} {text} {p} answer: {mask}", "P P a Ġdull Ġfilm P Ġanswer : Ġbad"),
        ("{p*2} {mask} {p} {text} {p}", "P P Ġbad P Ġa Ġdull Ġfilm P"),
        ("{text} was {mask}. {p}", "a Ġdull Ġfilm Ġwas Ġbad . P"),
        ("{p} {mask}: {text}", "P Ġbad : Ġa Ġdull Ġfilm"),
    ],
)
def test_gaps_of_an_adapters_template(
    template: str, expected: str, encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers
) -> None:
    row = encode("roberta", placement=Placement.of_template(template)).rows[0]
    assert shown(row, word_tokenizer("roberta")) == ["<s>", *expected.split(), "</s>"]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        (Placement.at("prepend", 2), "P P <s> a Ġdull Ġfilm Ġwas Ġbad . </s>"),
        (Placement.at("after_bos", 2), "<s> P P a Ġdull Ġfilm Ġwas Ġbad . </s>"),
        (Placement.at("append", 2), "<s> a Ġdull Ġfilm Ġwas Ġbad . P P </s>"),
        (Placement.of_template("{p} {text} {p} so"), "<s> P a Ġdull Ġfilm Ġwas Ġbad . P Ġso </s>"),
    ],
)
def test_virtual_tokens_around_a_row_that_has_its_own_gap(
    placement: Placement, expected: str, encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers
) -> None:
    row = encode("roberta", template="{{ text }} was {{ mask }}.", placement=placement).rows[0]
    assert shown(row, word_tokenizer("roberta")) == expected.split()


def test_a_gap_at_the_end_is_behind_what_an_adapter_puts_behind_the_text(
    encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers
) -> None:
    for placement, expected in (
        (Placement.at("append", 2), "<s> a Ġdull Ġfilm : P P Ġbad </s>"),
        (Placement.of_template("{p} {text} {p} so"), "<s> P a Ġdull Ġfilm : P Ġso Ġbad </s>"),
    ):
        row = encode("roberta", template="{{ text }}: {{ mask }}", placement=placement).rows[0]
        assert shown(row, word_tokenizer("roberta")) == expected.split()


def test_an_answer_without_a_space_before_it(encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers) -> None:
    row = encode("roberta", template="{{ mask }} {{ text }}", target="{{ label }}").rows[0]
    assert shown(row, word_tokenizer("roberta")) == ["<s>", "bad", "Ġa", "Ġdull", "Ġfilm", "</s>"]
    row = encode("roberta", template="{{ text }} so {{ mask }}", target="{{ label }}").rows[0]
    assert shown(row, word_tokenizer("roberta")) == ["<s>", "a", "Ġdull", "Ġfilm", "Ġso", "Ġbad", "</s>"]


def test_a_word_of_two_tokens_has_two_masks(encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers) -> None:
    tokenizer = word_tokenizer("bert")
    words = {"bad": "terrible", "good": "not dull"}
    found = encode(template="it was {{ mask }} {{ text }}", verbalizer=words)
    assert [shown(row, tokenizer)[3:5] for row in found.rows] == [["ter", "##rible"], ["not", "dull"]]
    assert found.report.label_tokens == 4
    assert found.report.example == "<s> it was <mask> <mask> a dull film </s> ⟦terrible⟧"


def test_rows_that_are_too_long(encode: Callable[..., EncodedSet]) -> None:
    rows = [*ROWS, {"text": "the film was so dull and so long", "label": "bad"}]
    end = "{{ text }}: {{ mask }}"
    with pytest.raises(DataError, match=r"1 of 3 rows are longer than 9 tokens \(the longest has 12"):
        encode(rows=rows, template=end, limits={"max_length": 9})
    for overlong in ("drop", "truncate"):
        kept = encode(rows=rows, template=end, limits={"max_length": 9, "overlong": overlong})
        assert (len(kept.rows), sum(kept.report.dropped.values())) == (2, 1)
    cut = encode(rows=rows, template="{{ mask }}: {{ text }}", limits={"max_length": 9, "overlong": "truncate"})
    assert [len(row.input_ids) for row in cut.rows] == [7, 6, 9]
    assert cut.report.rows_cut == 1
    with pytest.raises(DataError, match=r"the answer's place lies beyond 5 tokens in every row; raise --max-length"):
        encode(rows=rows[2:], template=end, labels=(), limits={"max_length": 5, "overlong": "truncate"})


def test_rows_without_an_answer_are_left_out_and_told(encode: Callable[..., EncodedSet]) -> None:
    options = {"template": "{{ film }} {{ mask }}", "target": " {{ said }}", "labels": ()}
    rows = [{"film": row["text"], "said": row["label"]} for row in ROWS]
    found = encode(rows=[*rows, {"film": "a film", "said": " "}], **options)
    assert (len(found.rows), found.report.dropped) == (2, {"nothing to learn (the target is empty)": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"rows.jsonl:1: nothing says where its answer stands; write \{\{ mask \}\} where the answer stands, such"),
        (
            {"template": "{{ text }} {{ mask }}", "placement": Placement.of_template("{p} {text} {mask}")},
            r"rows.jsonl:1: its answer has 2 places; write \{\{ mask \}\}",
        ),
        ({"template": "{{ mask }} {{ text }} {{ mask }}"}, r"has the slot \{\{ mask \}\} twice, and a row has one"),
        ({"template": "{{ msk }} {{ text }}"}, "slot 'msk', which is no column"),
        (
            {"template": "{{ mask }} {{ text }}", "rows": [{"text": "a <mask> film", "label": "bad"}]},
            "rows.jsonl:1: the row's own text holds <mask>, which is for the answer alone",
        ),
        (
            {"template": "{{ text }} {{ mask }}", "verbalizer": {"bad": "terrible", "good": "great"}},
            "must be of equally many tokens, and 'terrible' has 2, 'great' has 1; choose other words with --verbalizer",
        ),
        (
            {"template": "{{ text }} {{ mask }}", "verbalizer": {"bad": "unheard", "good": "great"}},
            "the answer 'unheard' has no token of its own in this model's vocabulary",
        ),
        (
            {"template": "{{ text }} {{ mask }}", "verbalizer": {"bad": "not bad", "good": "not  bad"}},
            "two of the label words .* are the same tokens to this model",
        ),
        (
            {"template": "{{ text }} {{ mask }}", "target": " not {{ label }}", "labels": ()},
            "the answer 'not bad' is 2 tokens; answers that are no labels are one token each",
        ),
    ],
)
def test_rows_that_cannot_have_a_gap(options: dict[str, Any], message: str, encode: Callable[..., EncodedSet]) -> None:
    with pytest.raises(DataError, match=message):
        encode(**options)


def test_a_tokenizer_without_a_mask_token(
    encode: Callable[..., EncodedSet], word_tokenizer: Tokenizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "mask_token_id", None, raising=False)
    with pytest.raises(ConfigError, match=r"tokenizer has no mask token, so no answer can be filled in; use a base th"):
        encode(template="{{ text }} {{ mask }}")
