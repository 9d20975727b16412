"""Words that stand for labels: in the text the word, in results the label."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from petune.data.encoding import IGNORED, encode
from petune.data.examples import ExampleSet
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.errors import DataError
from petune.evaluation.scoring import distinct_labels

WORDS = {"pos": "good", "neg": "bad", "mixed": "so-so"}
ROWS = [{"text": "a joy", "label": "pos"}, {"text": "dull", "label": "neg"}]


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., ExampleSet]:
    """Write rows and load them with a verbalizer."""

    def read(rows: list[dict[str, Any]] = ROWS, *, tokenizer: Any = None, **options: Any) -> ExampleSet:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        require_target = options.pop("require_target", True)
        settings = DataOptions(**{"data": str(path), "verbalizer": WORDS, **options})
        return load_examples(settings, tokenizer, require_target=require_target)

    return read


def test_the_text_has_the_word_and_the_target_is_the_label(
    load: Callable[..., ExampleSet], tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = load()
    first = examples[0]
    assert "".join(segment.text for segment in first.segments) == "a joy\nLabel: good"
    assert (first.target, first.choices_key, first.lead) == ("pos", "pos", " ")
    assert first.words == WORDS
    assert distinct_labels(examples) == ("mixed", "neg", "pos")
    row = encode(examples, tokenizer, max_length=50, eos=False).rows[0]
    assert tokenizer.decode([label for label in row.labels if label != IGNORED]) == " good"


def test_a_target_template_around_the_word(load: Callable[..., ExampleSet]) -> None:
    example = load(target=" It is {{ label }}, {{ text }}.")[1]
    assert example.segments[1].text == " It is bad, dull."
    assert example.words["pos"] == "It is good, dull."
    assert example.target == "neg"


def test_chat_turns(load: Callable[..., ExampleSet], tokenizer_with: Callable[[str], PreTrainedTokenizerFast]) -> None:
    example = load(tokenizer=tokenizer_with("CHATML"), chat="on")[0]
    assert "assistant\ngood<|im_end|>" in "".join(segment.text for segment in example.segments)
    assert (example.target, example.choices_key, example.words["neg"]) == ("pos", "pos", "bad")


def test_rows_to_predict_need_no_label(load: Callable[..., ExampleSet]) -> None:
    (example,) = load([{"text": "a joy"}], require_target=False, layout="text-label")
    assert example.target is None
    assert example.words == WORDS


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "x", "label": "odd"}], {}, r"rows\.jsonl:1: label 'odd' has no word in the verbalizer; add one"),
        (ROWS, {"verbalizer": {"pos": "good", "neg": " good"}}, "'good' stands for two labels"),
        (ROWS, {"verbalizer": {"pos": "good", "neg": " "}}, "a word for each of at least two labels"),
        (ROWS, {"verbalizer": {"pos": "good"}}, "a word for each of at least two labels"),
        ([{"prompt": "x", "completion": "y"}], {}, "rows of the layout prompt-completion have none"),
    ],
)
def test_verbalizers_that_cannot_be_used(
    rows: list[dict[str, Any]], options: dict[str, Any], message: str, load: Callable[..., ExampleSet]
) -> None:
    with pytest.raises(DataError, match=message):
        load(rows, **options)
