"""What a model answers to rows: a label where labels are compared, text otherwise."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from petune.data.examples import Example
from petune.evaluation.likelihood import CausalLikelihood, Likelihood
from petune.evaluation.metrics import Answer
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.runner import Runner
from petune.evaluation.scoring import Choice, check_labels, distinct_labels
from petune.evaluation.stopping import decode

_LABEL_WINDOW = 512
_TEXT_WINDOW = 128
"""Rows predicted at a time, so that they can be written down while the rest is being made."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one row."""

    origin: str
    """Where the row comes from, such as ``reviews.jsonl:12``."""
    fields: Mapping[str, Any]
    """The row as read."""
    prediction: Answer
    """The likeliest label, the generated text (without white space around it, and without what the chat template writes
    before every answer), or a tag for each token."""
    reference: Answer | None
    """The row's own target, where it has one."""
    probabilities: Mapping[str, float] | None
    """Each label's share among the labels; None where no labels were compared."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of the answer, such as where in the text it stands."""

    def to_dict(self) -> dict[str, Any]:
        """Return the row's fields with ``prediction`` and, for labels, ``probabilities`` added."""
        several = isinstance(self.prediction, tuple)
        added: dict[str, Any] = {"prediction": list(self.prediction) if several else self.prediction}
        if self.probabilities is not None:
            added["probabilities"] = dict(self.probabilities)
        return {**self.fields, **added, **self.details}


def predict(
    runner: Runner,
    examples: Sequence[Example],
    options: EvaluationOptions | None = None,
    *,
    generation: GenerationOptions | None = None,
    likelihood: Likelihood | None = None,
) -> Iterator[Prediction]:
    """Yield the answer to each row, in order, a few hundred rows at a time.

    Labels are compared where ``options.labels`` names them, or where all rows are classification rows of at
    least two classes; otherwise text is generated.

    Args:
        runner: the model.
        examples: rows, with or without targets.
        options: labels and batch size.
        generation: how text is generated; by default greedily, as ``options`` says.
        likelihood: how labels are scored and texts written; by default as a causal language model does.

    Raises:
        ConfigError: the labels cannot be compared.
        DataError: a row does not fit the model.
    """
    options, likelihood = options or EvaluationOptions(), likelihood or CausalLikelihood()
    labels = labels_to_compare(examples, options)
    if labels:
        check_labels(labels)
        return _predict_labels(runner, examples, labels, options.batch_tokens, likelihood)
    return predict_texts(runner, examples, generation or options.generation, likelihood)


def labels_to_compare(examples: Sequence[Example], options: EvaluationOptions) -> tuple[str, ...]:
    """Return the labels that rows are told apart by; none where text is generated."""
    found = distinct_labels(examples) if are_choices(examples) else ()
    return options.labels or (found if len(found) > 1 else ())


def are_choices(examples: Sequence[Example]) -> bool:
    """Say whether every row is a classification row with its label."""
    return bool(examples) and all(example.choices_key is not None for example in examples)


def chosen(example: Example, labels: Sequence[str], choice: Choice) -> Prediction:
    """Return the prediction that a choice makes for ``example``."""
    shares = dict(zip(labels, choice.probabilities, strict=True))
    return Prediction(example.origin, example.fields, choice.label, example.target, shares)


def predict_texts(
    runner: Runner, examples: Sequence[Example], options: GenerationOptions, likelihood: Likelihood
) -> Iterator[Prediction]:
    """Yield the text written for each row, in order, as windows of rows are done."""
    for start in range(0, len(examples), _TEXT_WINDOW):
        window = examples[start : start + _TEXT_WINDOW]
        for e, written in zip(window, likelihood.texts(runner, window, options, first_row=start), strict=True):
            text = _content(written, e.lead or "", runner.tokenizer)
            label = next((label for label, word in e.words.items() if word == text), text)
            yield Prediction(e.origin, e.fields, label, e.target, None)


def _content(text: str, lead: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a generated text without what the chat template writes before every answer, such as an empty thought."""
    if not lead.strip():
        return text
    return text.removeprefix(decode(tokenizer, tokenizer(lead, add_special_tokens=False)["input_ids"]).strip()).lstrip()


def _predict_labels(
    runner: Runner, examples: Sequence[Example], labels: Sequence[str], batch_tokens: int, likelihood: Likelihood
) -> Iterator[Prediction]:
    for start in range(0, len(examples), _LABEL_WINDOW):
        window = examples[start : start + _LABEL_WINDOW]
        _, choices = likelihood.measure(runner, None, window, labels, batch_tokens=batch_tokens)
        yield from (chosen(e, labels, c) for e, c in zip(window, choices, strict=True))
