"""How the contenders of one base stand: their order, the best, and their distance from it."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.intervals import Difference, difference
from petune.comparison.reporting.sentences import agreeing, labels
from petune.evaluation.metrics import higher_is_better


@final
@dataclass(frozen=True, slots=True)
class Standing:
    """The contenders of one base."""

    base: str

    metric: str
    """The metric that decides."""

    higher_is_better: bool

    contenders: tuple[Contender, ...]
    """Best first; behind them those that are not ranked, then those without a figure, as they came."""

    differences: dict[int, Difference]
    """Distance from the best by the contender's number, where rows to compare are at hand; the best has none."""

    vocabulary: str
    """That of most methods: the one in which losses per token are compared."""

    @property
    def ranked(self) -> tuple[Contender, ...]:
        """The contenders with a figure that can be compared, best first."""
        return tuple(c for c in self.contenders if _has_figure(c) and self._comparable(c))

    @property
    def unranked(self) -> tuple[Contender, ...]:
        """Those whose figure is a loss per token of another vocabulary."""
        return tuple(c for c in self.contenders if _has_figure(c) and not self._comparable(c))

    def _comparable(self, contender: Contender) -> bool:
        per_token = not higher_is_better(self.metric)  # of petune's own metrics these are loss and perplexity
        return not per_token or contender.vocabulary == self.vocabulary

    @property
    def best(self) -> Contender | None:
        """The one with the best mean; None where nothing was measured."""
        return self.ranked[0] if self.ranked else None

    @property
    def ties(self) -> tuple[Contender, ...]:
        """Those within the noise of the best, without the best itself."""
        return tuple(c for c in self.ranked if c.number in self.differences and self.differences[c.number].within_noise)

    @property
    def behind(self) -> tuple[Contender, ...]:
        """Those behind the best by more than the noise."""
        ahead = self.ahead
        return tuple(c for c in self._apart if c not in ahead)

    @property
    def ahead(self) -> tuple[Contender, ...]:
        """Those whose rows score better than the best's, where the metric is no mean over rows."""
        return tuple(c for c in self._apart if (self.differences[c.number].mean > 0) == self.higher_is_better)

    @property
    def unknown(self) -> tuple[Contender, ...]:
        """Those behind the best by a distance of which nothing is known."""
        return tuple(c for c in self.ranked[1:] if c.number not in self.differences)

    @property
    def _apart(self) -> list[Contender]:
        return [c for c in self.ranked if c.number in self.differences and c not in self.ties]

    @property
    def front(self) -> tuple[Contender, ...]:
        """The best and those within its noise, as far as they were trained."""
        best = () if self.best is None else (self.best,)
        return tuple(contender for contender in (*best, *self.ties) if not contender.untrained)

    def least(self, value: Callable[[Trial], float | None]) -> Contender | None:
        """Return which of the front needs the least of something; None where fewer than two figures are known."""
        figures = {c: v for c in self.front if (v := c.mean(value)) is not None}
        return min(figures, key=lambda contender: figures[contender]) if len(figures) > 1 else None

    def clearly_least(self, value: Callable[[Trial], float | None]) -> Contender | None:
        """Return the :meth:`least`; None where its range over the seeds meets that of another of the front."""
        least = self.least(value)
        if least is None:
            return None
        most = max(least.figures(value))
        others = [figure for contender in self.front if contender != least for figure in contender.figures(value)]
        return least if most < min(others) else None

    @property
    def measured(self) -> str:
        """What quality is, in words."""
        words = f"Quality: {self.metric} on the test split, {'more' if self.higher_is_better else 'less'} is better."
        if not self.scores_are_the_metric:
            words += " It is no mean over rows; distances from the best are of the rows' mean score."
        if self.unranked:
            words += (
                f" {labels(self.unranked)} {agreeing(self.unranked, 'is', 'are')} not ranked: the {self.metric} is per"
                " token, and of another vocabulary (new_tokens) it cannot be compared."
            )
        return words

    @property
    def scores_are_the_metric(self) -> bool:
        """Whether the metric is the mean of the rows' scores, as accuracy is and F1 is not."""
        trials = [trial for contender in self.ranked for trial in contender.done if trial.scores]
        return all(
            math.isclose(sum(trial.scores) / len(trial.scores), trial.test[trial.metric], rel_tol=1e-3, abs_tol=1e-6)
            for trial in trials
            if trial.metric in trial.test
        )


def standings_of(contenders: Sequence[Contender]) -> list[Standing]:
    """Return the standing on each base, in the order in which they appear; the contenders are numbered along it."""
    found: list[Standing] = []
    for base in dict.fromkeys(contender.base for contender in contenders):
        before = sum(len(standing.contenders) for standing in found)
        found.append(_standing(base, [contender for contender in contenders if contender.base == base], before))
    return found


def _standing(base: str, contenders: Sequence[Contender], before: int) -> Standing:
    trial = next(trial for contender in contenders for trial in (*contender.trials, *contender.search))
    unordered = Standing(base, trial.metric, trial.higher_is_better, tuple(contenders), {}, _vocabulary(contenders))
    sign = -1 if trial.higher_is_better else 1
    ranked = sorted(unordered.ranked, key=lambda c: sign * _mean(c))
    rest = [*unordered.unranked, *(contender for contender in contenders if not _has_figure(contender))]
    numbered = tuple(replace(c, number=before + place) for place, c in enumerate([*ranked, *rest], 1))
    found = {c.number: difference(c, numbered[0]) for c in numbered[1 : len(ranked)]}
    differences = {number: gap for number, gap in found.items() if gap is not None}
    return replace(unordered, contenders=numbered, differences=differences)


def _vocabulary(contenders: Sequence[Contender]) -> str:
    """Return the vocabulary of most trained contenders with a figure; where several are level, the base's own."""
    counts = Counter(c.vocabulary for c in contenders if _has_figure(c) and not c.untrained)
    return max(counts, key=lambda vocabulary: (counts[vocabulary], not vocabulary), default="")


def _has_figure(contender: Contender) -> bool:
    return contender.quality is not None and not math.isnan(contender.quality.mean)


def _mean(contender: Contender) -> float:
    assert contender.quality is not None
    return contender.quality.mean
