"""Why a contender lacks figures: trials that failed, ran out of memory, were refused, or have not run yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender

STATUS = {"failed": "failed", "out_of_memory": "out of memory", "refused": "refused"}
"""What the endings of trials are called."""


@final
@dataclass(frozen=True, slots=True)
class Notice:
    """One reason that a contender's figures are missing or rest on fewer trials."""

    status: str
    text: str


def notices_of(contender: Contender) -> list[Notice]:
    """Return what is to be said of the trials that did not end well, equal reasons together."""
    if not contender.trials and not contender.problems:
        return [Notice("not run yet", "")]
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in contender.problems:
        groups.setdefault((STATUS[trial.status], trial.reason or ""), []).append(trial)
    return [Notice(status, _with_seeds(reason, trials, contender)) for (status, reason), trials in groups.items()]


def _with_seeds(reason: str, trials: Sequence[Trial], contender: Contender) -> str:
    if not contender.trials:
        return f"in the search: {reason}"
    if len(trials) == len(contender.trials):
        return reason
    seeds = ", ".join(str(trial.seed) for trial in trials)
    return f"seed{'s' if len(trials) > 1 else ''} {seeds}: {reason}"
