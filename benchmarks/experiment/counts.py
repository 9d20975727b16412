"""Tokens and characters of the answers of a text: losses per token of two vocabularies are not comparable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petune.backbone.tokenizer import load_tokenizer
from petune.backbone.vocabulary import read_tokens
from petune.data.encoding import encode
from petune.data.loading import check_files, render_examples
from petune.data.options import DataOptions

_LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Counts:
    """Of each row's answer."""

    tokens: list[int]
    extended: list[int]
    """Tokens with the extended vocabulary."""
    characters: list[int]


def answer_counts(recipe: Mapping[str, Any], rows: Path, new_tokens: str) -> Counts:
    """Count the answers of the rows, written as a recipe writes them.

    Args:
        recipe: keys of the comparison.
        rows: its test rows.
        new_tokens: file of the tokens to add.
    """
    reading = {key: recipe[key] for key in ("template", "target", "verbalizer") if key in recipe}
    options = DataOptions.model_validate({**reading, "data": str(rows)})
    checked = check_files(options).train
    assert checked is not None
    tokenizer, _ = load_tokenizer(recipe["models"][0])
    examples = render_examples(checked, options, tokenizer)
    targets = [example.target or "" for example in examples]

    def learned() -> list[int]:
        encoded = encode(examples, tokenizer, max_length=_LONGEST).rows
        return [sum(label != -100 for label in row.labels) for row in encoded]

    plain = learned()
    tokenizer.add_tokens(list(read_tokens(new_tokens)))
    return Counts(plain, learned(), [len(target.strip()) for target in targets])


def per_character(scores: Sequence[float], tokens: Sequence[int], characters: Sequence[int]) -> list[float]:
    """Return for each row its loss (nats per token) as nats per character, weighted so that the mean is that of all."""
    mean = sum(characters) / len(characters)
    return [score * count / mean for score, count in zip(scores, tokens, strict=True)]
