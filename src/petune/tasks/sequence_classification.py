"""Sequence classification: one label for a whole text.

Encoders read the answer off their first token, decoders off the last one of the text; padding on either side changes
nothing.
"""

from collections.abc import Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from petune.data.contents import Pair
from petune.data.encoding import IGNORED, Encoded, EncodedSet, marked_text
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import encoded_set, fit, text_ids, versions_of
from petune.data.layouts import TEMPLATE
from petune.data.loading import CheckedData
from petune.data.options import DataOptions
from petune.errors import ConfigError, DataError, nearest
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import Prediction, chosen
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, versions
from petune.evaluation.scoring import combined_choice
from petune.sites.placement import Insertion
from petune.tasks.head_task import HeadTask, class_loss, require_room


@final
class SequenceClassification(HeadTask):
    """One of several named classes for each text. The label of a row is its class."""

    name = "sequence_classification"
    layouts = ("text-label", TEMPLATE.name)
    compares = "choices"
    default_metrics = ("loss", "accuracy", "f1")

    def reading(self, options: DataOptions) -> DataOptions:
        """Return the options with the bare text as template: nothing asks a head for a label.

        Raises:
            DataError: words are given that stand for labels.
        """
        if options.verbalizer is not None:
            raise DataError(
                "--verbalizer gives words that stand for labels, and a classification head has no words: leave it out,"
                " or choose --task masked_lm or causal_lm"
            )
        if options.template is not None or options.target is not None:
            return options
        return options.model_copy(update={"template": "{{ text }}", "target": "{{ label }}"})

    def labels(self, data: CheckedData) -> tuple[str, ...]:
        """Return the distinct labels of the training rows, numbers by size and words by letter."""
        assert data.train is not None
        targets = {(c.target or "").strip() for c in data.train.contents if isinstance(c, Pair)}
        if len(targets) < 2:
            raise DataError(
                f"{data.train.rows.source}: the rows have {len(targets)} distinct label{'s' * (len(targets) != 1)}"
                f" ({', '.join(sorted(targets))}); a classification needs two at least"
            )
        return tuple(sorted(targets, key=lambda label: (len(label) if label.isdigit() else 0, label)))

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
        """Return the texts, the label of each its number among ``labels``.

        Raises:
            DataError: a label is none of ``labels``, a text has no token, or is too long.
        """
        strange = [example for example in examples if example.target not in labels]
        if strange:
            target = str(strange[0].target)
            raise DataError(
                f"{examples.source}: {len(strange):,} of {len(examples):,} rows have a label that the head does not"
                f" know; the first is '{target}' at {strange[0].origin}.{nearest(target, labels)} The labels are"
                f" {', '.join(labels)}"
            )
        numbers = {label: number for number, label in enumerate(labels)}
        rows = _rows(examples, tokenizer, insertions, [numbers[str(example.target)] for example in examples])
        fitted = fit(
            rows,
            tokenizer,
            max_length=max_length,
            overlong=overlong,
            insertions=insertions,
            room=room,
            source=examples.source,
        )
        first = fitted.rows[0]
        return encoded_set(
            examples,
            fitted,
            max_length=max_length,
            label_tokens=len(fitted.rows),
            shown=f"{marked_text(first.unlabelled(), tokenizer, insertions)} ⟦{labels[first.labels[0]]}⟧",
            insertions=insertions,
        )

    def head_labels(self, runner: Runner, options: EvaluationOptions) -> tuple[str, ...]:
        """Return the names of the head's outputs.

        Raises:
            ConfigError: the options name other ones, or the head's outputs are no classes of which one is right.
        """
        config = runner.model.config
        gives = "a number" if config.num_labels == 1 or config.problem_type == "regression" else None
        gives = "several labels at once" if config.problem_type == "multi_label_classification" else gives
        if gives is not None:
            raise ConfigError(
                f"the head of this model gives {gives} (num_labels {config.num_labels}, problem_type"
                f" {config.problem_type}), and here one label of two or more is told for each text; train a head for"
                " that with petune train --task sequence_classification"
            )
        return super().head_labels(runner, options)

    def loss(self, output: Any, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-entropy [B] of the labels [B, 1]."""
        return class_loss(output.logits, labels[:, 0])

    def inputs(self, runner: Runner, examples: Sequence[Example]) -> list[list[Encoded]]:
        """Return the texts.

        Raises:
            DataError: a text has no token, or is longer than the model's context.
        """
        rows = _rows(examples, runner.tokenizer, runner.insertions, [IGNORED] * len(examples))
        require_room(rows, runner, "shorten them")
        return [versions_of(row, runner.insertions) for row in rows]

    def read(self, output: Any, index: int, row: Encoded) -> Any:
        """Return the log-probabilities of the classes."""
        return torch.log_softmax(output.logits[index].to(torch.float64), -1).tolist()

    def answer(self, runner: Runner, example: Example, found: Sequence[Any]) -> Prediction:
        """Return the likeliest class."""
        names = tuple(str(runner.model.config.id2label[i]) for i in range(runner.model.config.num_labels))
        _, combine = versions(runner)
        return chosen(example, names, combined_choice(names, found, combine))


def _rows(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    insertions: Sequence[Insertion],
    labels: Sequence[int],
) -> list[Encoded]:
    ids = text_ids(examples, tokenizer, insertions)
    # Decoders find a text's end by the padding token's id, which may be the end-of-text token's too.
    for own in ids:
        while own and own[-1] == tokenizer.pad_token_id:
            own.pop()
    empty = [example.origin for example, own in zip(examples, ids, strict=True) if not own]
    if empty:
        raise DataError(f"no token to classify in {listed(empty)}; give each row a text")
    return [Encoded(own, [label], e.origin) for e, own, label in zip(examples, ids, labels, strict=True)]
