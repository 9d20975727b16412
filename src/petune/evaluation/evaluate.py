"""A model measured on rows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from petune.data.encoding import Encoded, encode, resolve_max_length
from petune.data.examples import Example, ExampleSet
from petune.errors import ConfigError, DataError
from petune.evaluation.loss import token_loss
from petune.evaluation.metrics import Metric, compare, resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import Prediction, answer, are_choices, chosen, generation_of, written
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, context_length
from petune.evaluation.scoring import distinct_labels, score_choices


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of measuring a model."""

    metrics: Mapping[str, float]
    """Values by the metric's name, in the order asked for."""
    predictions: tuple[Prediction, ...]
    """One for each row, where a metric needed them; of labels where labels were compared, else of text."""
    labels: tuple[str, ...]
    """The label words compared; empty where none were."""
    num_rows: int
    """Rows measured."""
    num_label_tokens: int
    """Tokens that the loss is a mean over; 0 where it was not asked for."""
    seconds: float
    """Wall-clock time of it all."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the predictions, ready for JSON."""
        return {
            "metrics": dict(self.metrics),
            "labels": list(self.labels),
            "num_rows": self.num_rows,
            "num_label_tokens": self.num_label_tokens,
            "seconds": self.seconds,
        }


def evaluate(
    runner: Runner,
    examples: ExampleSet,
    options: EvaluationOptions | None = None,
    *,
    rows: Sequence[Encoded] | None = None,
) -> Evaluation:
    """Measure a model on rows, and leave it as it was.

    Without metrics in ``options``, classification rows get loss, accuracy and F1, other rows loss and perplexity.

    Args:
        runner: the model.
        examples: rows with targets (plain text will do for loss and perplexity).
        options: which metrics, which labels, how large a batch.
        rows: the rows encoded already, for the loss; encoded here where missing.

    Raises:
        ConfigError: a metric is unknown, two have one name, or the labels cannot be compared.
        DataError: the rows lack what a metric needs, or do not fit the model.
    """
    started = time.perf_counter()
    options = options or EvaluationOptions()
    if not examples:
        raise DataError(f"{examples.source}: no rows to measure; give a file with at least one row")
    is_classification = are_choices(examples)
    metrics = [resolve_metric(name) for name in options.metrics or default_metrics(examples)]
    needs = {_concrete(metric, is_classification or bool(options.labels)) for metric in metrics}
    _check_data(examples, metrics, needs)

    loss = None
    if "tokens" in needs:
        loss = token_loss(runner, rows if rows is not None else _encode(runner, examples), batch_tokens=options.batch_tokens)
    labels: tuple[str, ...] = ()
    predictions: dict[str, list[Prediction]] = {}
    if "choices" in needs:
        labels = options.labels or distinct_labels(examples)
        choices = score_choices(runner, examples, labels, batch_tokens=options.batch_tokens)
        predictions["choices"] = [chosen(e, labels, c) for e, c in zip(examples, choices, strict=True)]
    if "text" in needs:
        texts = answer(runner, examples, generation_of(options))
        predictions["text"] = [written(e, g) for e, g in zip(examples, texts, strict=True)]
