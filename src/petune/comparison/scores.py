"""A score for each row, for intervals over pairs of trials: the metric that decides, taken of the row alone."""

import logging
from collections.abc import Sequence

from petune.data.examples import ExampleSet
from petune.errors import ConfigError
from petune.evaluation.entities import entities
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.metrics import Metric, compute, resolve_metric
from petune.evaluation.predict import Prediction

logger = logging.getLogger("petune")

_OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall")


def row_scores(examples: ExampleSet, metric: Metric, found: Evaluation) -> list[float]:
    """Return the score of each row that was measured, in order; none where the metric says nothing of one row.

    Args:
        examples: the rows; those that were not measured are passed over.
        metric: the metric that decides.
        found: the measurement of all rows by that metric.
    """
    if metric.needs == "tokens":
        return [found.row_losses[e.origin] for e in examples if e.origin in found.row_losses]
    try:
        return [_score(metric, prediction) for prediction in found.predictions]
    except ConfigError as error:  # a metric of the user's own that needs several rows, a correlation for instance
        logger.info("no score of a row alone, so no interval: %s", error)
        return []


def _score(metric: Metric, prediction: Prediction) -> float:
    if metric.name in _OF_ENTITIES and _is_rightly_without(prediction):
        return 1.0  # of all rows it counts for nothing; alone, a row where something was found must be worse
    values = compute(metric, [prediction.prediction], [prediction.reference or ""])
    return float(values[metric.name] if metric.name in values else next(iter(values.values())))


def _is_rightly_without(prediction: Prediction) -> bool:
    """Say whether there is no entity in a row, and none was found."""
    return not any(any(entities(tags)) for tags in (prediction.prediction, prediction.reference or ()))


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
