"""The metrics, in one table.

A metric needs one of these things of the data:

- ``tokens``: the loss per label token; its function takes the mean loss in nats.
- ``choices``: the label that the model finds likeliest, against the row's own label.
- ``text``: the text that the model writes, against the row's target.
- ``tags``: the tag that a head gives to each word, against the row's tags.
- ``spans``: the piece of the context that a head marks, against the answers that are right.

Functions over all but ``tokens`` take the predictions and the references, two lists of one length.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from petune.errors import ConfigError, nearest
from petune.evaluation.entities import entity_f1, entity_precision, entity_recall, tag_accuracy
from petune.evaluation.spans import span_exact_match, span_f1
from petune.evaluation.user_metric import load_user_metric
from petune.evaluation.words import mostly_cjk, words

Need = Literal["tokens", "choices", "text", "tags", "spans", "predictions"]
"""What a metric is computed from; ``predictions``: choices where labels are compared, else text."""

MARKED: tuple[Need, ...] = ("tags", "spans")
"""What only a head gives."""

Answer = str | tuple[str, ...]
"""A label or a text; or several: a tag for each word, or the answers that are right."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric."""

    name: str
    needs: Need
    doc: str
    """One line: what it says, and its unit."""
    function: Callable[..., float | Mapping[str, float]]


def perplexity(mean_loss: float) -> float:
    """Return e to the ``mean_loss`` (nats per token); infinite where that is too large for a float."""
    try:
        return math.exp(mean_loss)
    except OverflowError:
        return math.inf


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of predictions equal to their reference."""
    return sum(p == r for p, r in zip(predictions, references, strict=True)) / len(references)


def f1(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the F1 score, averaged over labels with equal weight; a label never predicted counts 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="macro", zero_division=0))


def f1_weighted(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the F1 score, averaged over labels by how many rows have them."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="weighted", zero_division=0))


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of texts equal to their reference; only white space around them is ignored."""
    return accuracy([p.strip() for p in predictions], [r.strip() for r in references])


def bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU (0 to 100) of Papineni et al., 2002, as sacrebleu computes it.

    Words are split as ``13a`` does, or as ``zh`` does where the references are mostly CJK.
    """
    from sacrebleu import corpus_bleu

    split = "zh" if mostly_cjk(references) else "13a"
    return float(corpus_bleu(list(predictions), [list(references)], tokenize=split).score)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean F-measure of ROUGE-L (Lin, 2004), 0 to 1, over words and single CJK characters."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_RougeTokenizer())
    scores = [scorer.score(r, p)["rougeL"].fmeasure for p, r in zip(predictions, references, strict=True)]
    return float(sum(scores) / len(scores))


class _RougeTokenizer:
    """Splits lower-cased words of any script, and CJK text by character.

    The scorer's own tokenizer keeps a-z and 0-9 only, so that every Chinese text would score 0.
    """

    def tokenize(self, text: str) -> list[str]:
        return words(text)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("loss", "tokens", "mean negative log-likelihood of a label token, in nats", float),
        Metric("perplexity", "tokens", "e to the power of the loss", perplexity),
        Metric("accuracy", "choices", "share of rows whose likeliest label is the right one, 0 to 1", accuracy),
        Metric("f1", "choices", "F1 averaged over labels with equal weight (macro), 0 to 1", f1),
        Metric("f1_weighted", "choices", "F1 averaged over labels by their number of rows, 0 to 1", f1_weighted),
        Metric("exact_match", "text", "share of generated texts equal to the target, 0 to 1", exact_match),
        Metric("bleu", "text", "corpus BLEU of generated texts, 0 to 100", bleu),
        Metric("rouge_l", "text", "mean ROUGE-L F-measure of generated texts, 0 to 1", rouge_l),
        Metric("tag_accuracy", "tags", "share of words with the right tag, 0 to 1", tag_accuracy),
        Metric("entity_precision", "tags", "share of the entities found that are right, 0 to 1", entity_precision),
        Metric("entity_recall", "tags", "share of the entities there are that were found, 0 to 1", entity_recall),
        Metric("entity_f1", "tags", "harmonic mean of the two, over all entities (micro), 0 to 1", entity_f1),
        Metric("span_exact_match", "spans", "share of answers equal to a right one, 0 to 1", span_exact_match),
        Metric("span_f1", "spans", "mean F1 of the words shared with the right answer, 0 to 1", span_f1),
    )
}
"""Every metric of petune, by name."""

_OWN = "metric"
"""The function of a user's file where none is named."""

_HIGHER_IS_WORSE = ("loss", "perplexity")


def higher_is_better(name: str, said: bool | None = None) -> bool:
    """Say whether more of what is measured under ``name`` is better.

    Args:
        name: of a metric, or of a value that a user's own returns.
        said: what the user says of one of their own; None for more is better.
    """
    if name in METRICS:
        return name not in _HIGHER_IS_WORSE
    return said is not False


def require_direction(name: str, said: bool | None) -> None:
    """Check what the user says of a metric.

    Raises:
        ConfigError: it is petune's own, and the other way round.
    """
    if said is not None and name in METRICS and said != higher_is_better(name):
        raise ConfigError(
            f"greater_is_better is {str(said).lower()}, and of {name} {'less' if said else 'more'} is better; leave it"
            " out, or name a metric of your own"
        )


def resolve_metric(name: str) -> Metric:
    """Return the metric called ``name``, or the user's own for ``file.py`` or ``file.py:function``.

    Raises:
        ConfigError: no such metric, or the user's file cannot be used.
    """
    own = place_of_own(name)
    if own is not None:
        path, function = own
        called = measured_name(name)
        return Metric(called, "predictions", f"from {path}", load_user_metric(path, function, called))
    if name not in METRICS:
        raise ConfigError(
            f"unknown metric '{name}'; choose from {', '.join(METRICS)}, or give a function of your own as "
            f"path/to/file.py:function.{nearest(name, METRICS)}"
        )
    return METRICS[name]


def measured_name(name: str) -> str:
    """Return the name of what a metric measures: of a user's own its function, or its file where that is ``metric``."""
    own = place_of_own(name)
    if own is None:
        return name
    path, function = own
    return path.stem if function == _OWN else function


def place_of_own(name: str) -> tuple[Path, str] | None:
    """Return the file and the function of a metric of the user's own; None for one of petune's."""
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return Path(path).expanduser(), function
    return (Path(name).expanduser(), _OWN) if name.endswith(".py") else None


def compute(metric: Metric, *arguments: float | Sequence[Answer]) -> dict[str, float]:
    """Return the values of ``metric`` by name; ``arguments``: the mean loss, or predictions and references.

    Raises:
        ConfigError: the user's own function failed.
    """
    value = metric.function(*arguments)
    return dict(value) if isinstance(value, Mapping) else {metric.name: value}
