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
from petune.data.encoding import IGNORED, Encoded, EncodedSet
from petune.data.examples import Example, ExampleSet
from petune.data.fitting import encoded_set, fit
from petune.data.layouts import TEMPLATE
from petune.data.loading import CheckedData
from petune.data.options import DataOptions
from petune.errors import DataError, nearest
from petune.evaluation.predict import Prediction
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner
from petune.tasks.head_task import HeadTask, class_loss


@final
class SequenceClassification(HeadTask):
    """One of several named classes for each text. The label of a row is its class."""

    name = "sequence_classification"
    layouts = ("text-label", TEMPLATE.name)
    compares = "choices"
    default_metrics = ("loss", "accuracy", "f1")

    def reading(self, options: DataOptions) -> DataOptions:
        """Return the options with the bare text as template: nothing asks a head for a label."""
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
        rows = _rows(examples, tokenizer, [numbers[str(example.target)] for example in examples])
        special = tokenizer.num_special_tokens_to_add()
        fitted = fit(
            rows,
            max_length=max_length,
            overlong=overlong,
            cut=lambda row, longest: _front(row, longest, special, tokenizer),
            source=examples.source,
        )
        first = fitted.rows[0]
        text = tokenizer.decode(first.input_ids, clean_up_tokenization_spaces=False)
        return encoded_set(
            examples,
            fitted,
            max_length=max_length,
            label_tokens=len(fitted.rows),
            shown=f"{text} ⟦{labels[first.labels[0]]}⟧",
        )

    def loss(self, output: Any, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the labels [B, 1]."""
        return class_loss(output.logits, labels[:, 0])

    def inputs(self, runner: Runner, examples: Sequence[Example], max_length: int) -> list[list[Encoded]]:
        """Return the texts.

        Raises:
            DataError: a text has no token, or is longer than the model's context.
        """
        rows = _rows(examples, runner.tokenizer, [IGNORED] * len(examples))
        long = [f"{row.origin} ({len(row.input_ids):,})" for row in rows if len(row.input_ids) > max_length]
        if long:
            raise DataError(
                f"{len(long):,} of {len(rows):,} rows are longer than the model's {max_length:,} tokens:"
                f" {listed(long)}; shorten them"
            )
        return [[row] for row in rows]

    def read(self, output: Any, index: int, row: Encoded) -> Any:
        """Return the probabilities of the classes."""
        return torch.softmax(output.logits[index].to(torch.float64), -1).tolist()

    def answer(self, runner: Runner, example: Example, found: Sequence[Any]) -> Prediction:
        """Return the likeliest class."""
        (shares,) = found
        names = runner.model.config.id2label
        best = max(range(len(shares)), key=shares.__getitem__)
        probabilities = {str(names[i]): share for i, share in enumerate(shares)}
        return Prediction(example.origin, example.fields, str(names[best]), example.target, probabilities)


def _rows(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, labels: Sequence[int]) -> list[Encoded]:
    if not examples:
        return []
    texts = [example.prompt for example in examples]
    ids = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
    # Decoders find a text's end by the padding token's id, which may be the end-of-text token's too.
    for own in ids:
        while own and own[-1] == tokenizer.pad_token_id:
            own.pop()
    empty = [example.origin for example, own in zip(examples, ids, strict=True) if not own]
    if empty:
        raise DataError(f"no token to classify in {listed(empty)}; give each row a text")
    return [Encoded(own, [label], e.origin) for e, own, label in zip(examples, ids, labels, strict=True)]


def _front(row: Encoded, longest: int, special: int, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Return the front of a text, the special tokens behind it kept."""
    behind = 0
    while behind < special and row.input_ids[-1 - behind] in tokenizer.all_special_ids:
        behind += 1
    ids = row.input_ids[: longest - behind] + row.input_ids[len(row.input_ids) - behind :]
    return Encoded(ids, row.labels, row.origin)
