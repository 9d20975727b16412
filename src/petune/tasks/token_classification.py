"""Token classification: one tag for each word of a row, as in named-entity recognition.

A word is cut into sub-words; its tag is learned, and read off, at the first of them.
"""

import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, final

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from petune.data.encoding import IGNORED, Encoded, EncodedSet
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import encoded_set, fit, in_front
from petune.data.layouts import parse_tokens_tags
from petune.data.loading import CheckedData
from petune.errors import DataError, nearest
from petune.evaluation.predict import Prediction
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner
from petune.sites.placement import Insertion
from petune.tasks.head_task import HeadTask, class_loss, require_room

logger = logging.getLogger("petune")

OUTSIDE = "O"
"""The tag of a word that belongs to no entity; given to words that a model has no token for."""


@final
class TokenClassification(HeadTask):
    """One of several tags for each word. The labels of a row are its tags' numbers at first sub-words, else -100."""

    name = "token_classification"
    layouts = ("tokens-tags",)
    compares = "tags"
    default_metrics = ("loss", "tag_accuracy", "entity_f1")

    def labels(self, data: CheckedData) -> tuple[str, ...]:
        """Return the distinct tags of the training rows, sorted, the one for words outside of entities first."""
        assert data.train is not None
        tags = {tag for row in data.train.rows.rows for tag in _words(row, require_tags=True)[1]}
        if len(tags) < 2:
            raise DataError(
                f"{data.train.rows.source}: the rows have {len(tags)} distinct tag{'s' * (len(tags) != 1)};"
                " a classification needs two at least"
            )
        if all(tag.isdigit() for tag in tags):
            logger.warning(
                "%s: the tags are numbers, and none is known to stand for no entity, so metrics of entities count every"
                " word; write the tags' names (O, B-PER, ...), or use tag_accuracy",
                data.train.rows.source,
            )
        return tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag)))

    def encode(
        self,
        examples: ExampleSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        max_length: int,
        overlong: Literal["error", "drop", "truncate"] = "error",
        insertions: Sequence[Insertion] = (),
        room: int | None = None,
    ) -> EncodedSet:
        """Return the rows with the number of each word's tag at its first sub-word.

        Raises:
            DataError: a tag is none of ``labels``, no word of a row has a token, or a row is too long.
        """
        numbers = {label: number for number, label in enumerate(labels)}
        rows = []
        for example, row, words in _tokenised(examples, tokenizer, insertions):
            tags = _words(example.fields, require_tags=True)[1]
            strange = next((tag for tag in tags if tag not in numbers), None)
            if strange is not None:
                raise DataError(
                    f"{example.origin}: the head does not know the tag '{strange}'.{nearest(strange, labels)} The tags"
                    f" are {', '.join(labels)}"
                )
            for place, word in first_subwords(words):
                row.labels[place] = numbers[tags[word]]
            rows.append(row)
        fitted = fit(
            rows,
            tokenizer,
            max_length=max_length,
            overlong=overlong,
            insertions=insertions,
            room=room,
            source=examples.source,
        )
        virtual = {token for insertion in insertions for token in insertion.ids()}
        tagged = [
            f"{tokenizer.decode([token])}{'' if label == IGNORED else f'⟦{labels[label]}⟧'}"
            for token, label in zip(fitted.rows[0].input_ids, fitted.rows[0].labels, strict=True)
            if token not in virtual
        ]
        count = sum(self.num_labels(row) for row in fitted.rows)
        return encoded_set(examples, fitted, max_length=max_length, label_tokens=count, shown=" ".join(tagged))

    def loss(self, output: Any, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-entropy [B] of the labels [B, T] of each row."""
        return class_loss(output.logits.flatten(0, 1), labels.flatten()).view(labels.shape).sum(1)

    def inputs(self, runner: Runner, examples: Sequence[Example]) -> list[list[Encoded]]:
        """Return the rows, the number of each word at its first sub-word.

        Raises:
            DataError: no word of a row has a token, or a row is longer than the model's context.
        """
        rows = []
        for _, row, words in _tokenised(examples, runner.tokenizer, runner.insertions):
            for place, word in first_subwords(words):
                row.labels[place] = word
            rows.append(row)
        require_room(rows, runner, "cut them into sentences")
        return [[row] for row in rows]

    def read(self, output: Any, index: int, row: Encoded) -> Any:
        """Return the number of the likeliest tag by the number of the word."""
        best = output.logits[index].argmax(-1).tolist()
        return {word: best[place] for place, word in enumerate(row.labels) if word != IGNORED}

    def answer(self, runner: Runner, example: Example, found: Sequence[Any]) -> Prediction:
        """Return a tag for every word."""
        (numbers,) = found
        names = runner.model.config.id2label
        words, tags = _words(example.fields, require_tags=False)
        answer = tuple(str(names[numbers[i]]) if i in numbers else OUTSIDE for i in range(len(words)))
        return Prediction(example.origin, example.fields, answer, tuple(tags) or None, None)


def first_subwords(words: Sequence[int | None]) -> list[tuple[int, int]]:
    """Return the place of each word's first token and the word, from the word (or None) of each token."""
    return [
        (place, word)
        for place, word in enumerate(words)
        if word is not None and (place == 0 or words[place - 1] != word)
    ]


def _words(fields: Any, *, require_tags: bool) -> tuple[list[str], list[str]]:
    slots = parse_tokens_tags(fields, require_tags)
    return slots["tokens"], slots["tags"] or []


def _tokenised(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, insertions: Sequence[Insertion]
) -> list[tuple[Example, Encoded, list[int | None]]]:
    """Return each row without labels, and the word that each of its tokens ends in."""
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer {type(tokenizer).__name__} cannot tell which word a token is of; token classification needs"
            " a fast one (tokenizer.json)"
        )
    found = []
    empty = []
    for example in examples:
        words, _ = _words(example.fields, require_tags=False)
        text = " ".join(words)
        batch = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
        characters = [number for number, word in enumerate(words) for _ in range(len(word) + 1)]
        spaces = set(accumulate((len(word) + 1 for word in words), initial=-1))
        ends = [max(first, after - 1) for first, after in batch["offset_mapping"]]
        of = [
            None if added or end in spaces else characters[end]
            for end, added in zip(ends, batch["special_tokens_mask"], strict=True)
        ]
        if all(word is None for word in of):
            empty.append(example.origin)
        ids, places = in_front(list(batch["input_ids"]), insertions, tokenizer)
        owners = [None if place is None else of[place] for place in places]
        found.append((example, Encoded(ids, [IGNORED] * len(ids), example.origin), owners))
    if empty:
        raise DataError(f"no word has a token in {listed(empty)}; give each row tokens")
    return found
