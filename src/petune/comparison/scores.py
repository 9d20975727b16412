"""A score for each row, for intervals over pairs of trials: the metric that decides, taken of the row alone."""

import logging
from collections.abc import Iterator, Sequence

from petune.adapted_model import AdaptedModel
from petune.data.encoding import Encoded
from petune.data.examples import ExampleSet
from petune.errors import ConfigError
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.metrics import Metric, compute, resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import Prediction
from petune.tasks.task import Task

logger = logging.getLogger("petune")


def row_scores(
    task: Task,
    model: AdaptedModel,
    examples: ExampleSet,
    rows: Sequence[Encoded],
    metric: Metric,
    found: Evaluation,
) -> list[float]:
    """Return the score of each row that was measured, in order; none where the metric says nothing of one row.

    Args:
        task: what the model is trained for.
        model: the model that was measured.
        examples: the rows.
        rows: the same as tokens; those that cannot be used are missing, and a row of several versions stands there as
            often.
        metric: the metric that decides.
        found: the measurement of all rows by that metric.
    """
    if metric.needs == "tokens":
        return list(_losses(task, model, examples, rows))
    try:
        return [_score(metric, prediction) for prediction in found.predictions]
    except ConfigError as error:  # a metric of the user's own that needs several rows, a correlation for instance
        logger.info("no score of a row alone, so no interval: %s", error)
        return []


def _losses(task: Task, model: AdaptedModel, examples: ExampleSet, rows: Sequence[Encoded]) -> Iterator[float]:
    by_origin: dict[str, list[Encoded]] = {}
    for row in rows:
        by_origin.setdefault(row.origin, []).append(row)
    options = EvaluationOptions(metrics=("loss",))
    for place, example in enumerate(examples):
        if example.origin in by_origin:
            own = by_origin[example.origin]
            yield task.evaluate(model, examples[place : place + 1], options, rows=own).metrics["loss"]


def _score(metric: Metric, prediction: Prediction) -> float:
    values = compute(metric, [prediction.prediction], [prediction.reference or ""])
    return float(values[metric.name] if metric.name in values else next(iter(values.values())))


def together(metric: str, others: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the metrics to measure in one go with the one that decides, and those to measure apart.

    An evaluation keeps the labels that it compared, where it compared some: they must not stand in the place of the
    texts that are scored.
    """
    names = tuple(dict.fromkeys(("loss", metric, *others)))
    if resolve_metric(metric).needs != "text":
        return names, ()
    apart = tuple(name for name in names if resolve_metric(name).needs == "choices")
    return tuple(name for name in names if name not in apart), apart
