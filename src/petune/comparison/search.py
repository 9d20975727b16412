"""Finding a method's settings by successive halving.

Paper: Jamieson and Talwalkar: "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (2016),
https://arxiv.org/abs/1502.07943

All candidates train for a small share of the budget; the best of them by the development split train anew for a larger
share, and so on until one is left, which the final trials use. Every round trains from the start, so that each trial
has its whole course of the learning rate and can be repeated alone.

A last round may try other values of what else matters to a method (its rank, length or start), one change at a time, at
the rate that was found and with the share of the budget that found it; the best of them is held against what was found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from petune.comparison.record import Trial


@final
@dataclass(frozen=True, slots=True)
class Rung:
    """One round of a search."""

    candidates: int
    """How many take part."""

    share: float
    """Part of the final budget that each gets."""

    varied: bool = False
    """Whether they are variations of the one that the rounds before have found."""

    @property
    def entering(self) -> int:
        """How many of those that are left from the round before it is made of."""
        return 1 if self.varied else self.candidates


def rungs(candidates: int, reduction: int, variations: int = 0) -> tuple[Rung, ...]:
    """Return the rounds that leave one of so many candidates; none where there is but one.

    Args:
        candidates: how many there are.
        reduction: one in so many goes on, with so many times the budget. The last round has that share of the final
            budget.
        variations: how many of the one that is left are tried afterwards.
    """
    counts = []
    while candidates > 1:
        counts.append(candidates)
        candidates = math.ceil(candidates / reduction)
    found = tuple(Rung(count, float(reduction) ** (i - len(counts))) for i, count in enumerate(counts))
    return (*found, Rung(variations, found[-1].share, varied=True)) if found and variations else found


def best(trials: Sequence[Trial], keep: int) -> list[dict[str, Any]]:
    """Return the settings of the ``keep`` best trials that ended well, the best first.

    They are ranked by the metric on the development split, then by the loss there, then in their order.
    """
    ended = [trial for trial in trials if trial.status == "done" and not math.isnan(_rank(trial)[0])]
    return [dict(trial.settings) for trial in sorted(ended, key=_rank)[:keep]]


def _rank(trial: Trial) -> tuple[float, float]:
    value = trial.development.get(trial.metric, math.nan)
    loss = trial.development.get("loss", math.inf)
    return (-value if trial.higher_is_better else value, math.inf if math.isnan(loss) else loss)
