"""A score for each row, for intervals over pairs of trials: the metric that decides, taken of the row alone."""

from collections.abc import Sequence

from petune.adapted_model import AdaptedModel
from petune.data.examples import ExampleSet
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.metrics import Metric, compute, resolve_metric
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.predict import Prediction
from petune.tasks.task import Task


def row_scores(task: Task, model: AdaptedModel, examples: ExampleSet, metric: Metric, found: Evaluation) -> list[float]:
    """Return the score of each row, in their order.

    Args:
        task: what the model is trained for.
        model: the model that was measured.
        examples: the rows.
        metric: the metric that decides.
        found: the measurement of all rows by that metric.
    """
    if metric.needs == "tokens":
        # One row at a time, so that a row of several versions is one row.
        options = EvaluationOptions(metrics=("loss",))
        return [task.evaluate(model, examples[i : i + 1], options).metrics["loss"] for i in range(len(examples))]
    if len(found.predictions) != len(examples):
        return []
    return [_score(metric, prediction) for prediction in found.predictions]


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
