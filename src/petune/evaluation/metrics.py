"""The metrics, in one table.

A metric needs one of three things of the data:

- ``tokens``: the loss per label token; its function takes the mean loss in nats.
- ``choices``: the label that the model finds likeliest, against the row's own label.
- ``text``: the text that the model writes, against the row's target.

Functions over ``choices`` and ``text`` take the predictions and the references, two lists of one length.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from petune.errors import ConfigError, nearest
from petune.evaluation.user_metric import load_user_metric

Need = Literal["tokens", "choices", "text", "predictions"]
"""What a metric is computed from; ``predictions``: choices where labels are compared, else text."""


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


_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3100-\u312f\u31a0-\u31bf"  # bopomofo
)
"""Characters of scripts written without spaces between words, as ranges of a character class."""
_CJK_CHARACTER = re.compile(f"[{_CJK}]")
_TOKEN = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


class _RougeTokenizer:
    """Splits lower-cased words of any script, and CJK text by character.

    The scorer's own tokenizer keeps a-z and 0-9 only, so that every Chinese text would score 0.
    """

    def tokenize(self, text: str) -> list[str]:
        return _TOKEN.findall(text.lower())


def mostly_cjk(texts: Sequence[str]) -> bool:
    """Say whether more than half of the letters of ``texts`` are CJK characters."""
    cjk = sum(len(_CJK_CHARACTER.findall(text)) for text in texts)
    return 2 * cjk > sum(character.isalpha() for text in texts for character in text)


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
    )
}
"""Every metric of petune, by name."""

HIGHER_IS_WORSE = ("loss", "perplexity")
"""The metrics that should be low."""


def resolve_metric(name: str) -> Metric:
    """Return the metric called ``name``, or the user's own for ``file.py`` or ``file.py:function``.

    Raises:
        ConfigError: no such metric, or the user's file cannot be used.
    """
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _user_metric(Path(path), function)
    if name.endswith(".py"):
        return _user_metric(Path(name), "metric")
    if name not in METRICS:
        raise ConfigError(
            f"unknown metric '{name}'; choose from {', '.join(METRICS)}, or give a function of your own as "
            f"path/to/file.py:function.{nearest(name, METRICS)}"
        )
    return METRICS[name]


def _user_metric(path: Path, function: str) -> Metric:
    name = path.stem if function == "metric" else function
    return Metric(name, "predictions", f"from {path}", load_user_metric(path, function, name))


def compute(metric: Metric, *arguments: float | Sequence[str]) -> dict[str, float]:
    """Return the values of ``metric`` by name; ``arguments``: the mean loss, or predictions and references.

    Raises:
        ConfigError: the user's own function failed.
    """
    value = metric.function(*arguments)
    return dict(value) if isinstance(value, Mapping) else {metric.name: value}
