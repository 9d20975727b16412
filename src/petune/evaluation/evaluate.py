"""A model measured on rows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from petune.data.encoding import Encoded
from petune.data.examples import Example, ExampleSet
from petune.errors import ConfigError, DataError, nearest
from petune.evaluation.likelihood import CausalLikelihood, Likelihood
from petune.evaluation.loss import TokenLoss
from petune.evaluation.metrics import MARKED, METRICS, Metric, Need, compute, resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import Prediction, are_choices, chosen, predict_texts
from petune.evaluation.prompts import listed
from petune.evaluation.runner import Runner, versions
from petune.evaluation.scoring import distinct_labels


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of measuring a model."""

    metrics: dict[str, float]
    """Values by the metric's name, in the order asked for."""
    predictions: tuple[Prediction, ...]
    """One for each row, where a metric needed them; of labels where labels were compared, else of text."""
    labels: tuple[str, ...]
    """The label words compared; empty where none were."""
    num_rows: int
    """Rows measured, each once, in however many versions it is run."""
    num_label_tokens: int
    """Tokens that the loss is a mean over; 0 where it was not asked for."""
    seconds: float
    """Wall-clock time of it all."""
    row_losses: Mapping[str, float] = field(default_factory=dict)
    """Nats per label token of each row that has one, by its origin; empty where the loss was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but what is said of single rows, ready for JSON."""
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
    likelihood: Likelihood | None = None,
) -> Evaluation:
    """Measure a model on rows, and leave it as it was.

    Without metrics in ``options``, classification rows get loss, accuracy and F1, others loss and perplexity.

    Args:
        runner: the model.
        examples: rows with targets (plain text will do for loss and perplexity).
        options: which metrics, which labels, how large a batch.
        rows: the rows as token ids, for the loss; encoded here where missing.
        likelihood: how targets are scored; by default as a causal language model scores them.

    Raises:
        ConfigError: a metric is unknown, two have one name, or the labels cannot be compared.
        DataError: the rows lack what a metric needs, or do not fit the model.
    """
    started = time.perf_counter()
    options, likelihood = options or EvaluationOptions(), likelihood or CausalLikelihood()
    if not examples and not rows:
        raise DataError(f"{examples.source}: no rows to measure; give a file with at least one row")
    metrics, labels = settle(examples, options)
    needs = {metric.needs for metric in metrics}

    if "tokens" in needs and rows is None:
        rows = likelihood.encode(runner, examples)
    loss, choices = likelihood.measure(
        runner, rows if "tokens" in needs else None, examples, labels, batch_tokens=options.batch_tokens
    )
    predictions: dict[Need, list[Prediction]] = {}
    if "choices" in needs:
        predictions["choices"] = [chosen(e, labels, c) for e, c in zip(examples, choices, strict=True)]
    if "text" in needs:
        predictions["text"] = list(predict_texts(runner, examples, options.generation, likelihood))
    return Evaluation(
        metrics=values_of(metrics, loss, predictions),
        predictions=tuple(next(iter(predictions.values()), ())),
        labels=labels,
        num_rows=len(examples) if rows is None else len(rows) // versions(runner)[0],
        num_label_tokens=loss.tokens if loss is not None else 0,
        row_losses=loss.by_origin if loss is not None else {},
        seconds=time.perf_counter() - started,
    )


def settle(examples: ExampleSet, options: EvaluationOptions) -> tuple[list[Metric], tuple[str, ...]]:
    """Return the metrics to compute and the labels to compare; every row has what they need.

    Raises:
        ConfigError: a metric is unknown, or two have one name.
        DataError: the rows lack what a metric needs.
    """
    own: Need = "choices" if are_choices(examples) or options.labels else "text"
    metrics = text_metrics(options.metrics or default_metrics(examples, options.labels), own)
    compared = any(metric.needs == "choices" for metric in metrics)
    labels = (options.labels or distinct_labels(examples)) if compared else ()
    _check_data(examples, metrics, labels)
    return metrics, labels


def default_metrics(examples: Sequence[Example], labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the metrics that fit the rows: of classification where their targets are labels, or of text."""
    chooses = are_choices(examples) or any(example.target in labels for example in examples)
    return ("loss", "accuracy", "f1") if chooses else ("loss", "perplexity")


def resolve_metrics(names: Sequence[str], own: Need) -> list[Metric]:
    """Return the metrics of these names; a user's own metric compares what ``own`` says.

    Raises:
        ConfigError: a metric is unknown, or two have one name.
    """
    metrics = [resolve_metric(name) for name in names]
    for metric in metrics:
        if sum(other.name == metric.name for other in metrics) > 1:
            raise ConfigError(f"two metrics are called '{metric.name}'; ask for each once, or rename your own")
    return [replace(metric, needs=own) if metric.needs == "predictions" else metric for metric in metrics]


def text_metrics(names: Sequence[str], own: Need = "text") -> list[Metric]:
    """Return the metrics of these names, for a model that writes; a user's own metric compares what ``own`` says.

    Raises:
        ConfigError: a metric is unknown, or computed from what a head marks, or two have one name.
    """
    metrics = resolve_metrics(names, own)
    for metric in metrics:
        if metric.needs in MARKED:
            fitting = [name for name, other in METRICS.items() if other.needs not in MARKED]
            raise ConfigError(
                f"metric '{metric.name}' compares {metric.needs}, which a head marks (see --task), and this model"
                f" writes text; choose from {', '.join(fitting)}"
            )
    return metrics


def _check_data(examples: ExampleSet, metrics: Sequence[Metric], labels: Sequence[str]) -> None:
    """Check that every row has what the metrics compare with, before anything slow happens."""
    missing = [example.origin for example in examples if example.target is None]
    for metric in metrics:
        if metric.needs == "choices" and not labels:
            raise DataError(
                f"metric '{metric.name}' compares label words, but the rows of {examples.source} (layout "
                f"{examples.layout}) have no labels; give rows with 'text' and 'label', or the words with "
                "--labels"
            )
        if metric.needs != "tokens" and missing:
            raise DataError(
                f"metric '{metric.name}' compares with a target, but {len(missing):,} of {len(examples):,} "
                f"rows have none: {listed(missing)}; add the targets, or ask for loss and perplexity only"
            )
    strange = [example for example in examples if labels and example.target not in labels]
    if strange:
        target = str(strange[0].target)
        raise DataError(
            f"{len(strange):,} of {len(examples):,} rows have a target that is none of the labels "
            f"{', '.join(labels)}; the first is '{target}' at {strange[0].origin}.{nearest(target, labels)} "
            "Name it with --labels, or mend the rows"
        )


def values_of(
    metrics: Sequence[Metric], loss: TokenLoss | None, predictions: Mapping[Need, Sequence[Prediction]]
) -> dict[str, float]:
    """Return the values of ``metrics`` by name, from the loss and from the predictions that each needs.

    Raises:
        ConfigError: two metrics return a value of the same name.
    """
    values: dict[str, float] = {}
    for metric in metrics:
        if metric.needs == "tokens":
            assert loss is not None
            found = compute(metric, loss.mean)
        else:
            rows = predictions[metric.needs]
            found = compute(metric, [row.prediction for row in rows], [row.reference or "" for row in rows])
        twice = next((name for name in found if name in values), None)
        if twice is not None:
            raise ConfigError(f"'{metric.name}' returned '{twice}', which another metric is called; rename it")
        values.update(found)
    return values
