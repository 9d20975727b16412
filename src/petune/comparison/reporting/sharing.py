"""What trials that shared a pass over their base have saved.

How long a trial would have taken alone is told by the final trials of its method, which train alone: its tokens at
their speed.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from petune.comparison.record import Trial


@final
@dataclass(frozen=True, slots=True)
class Sharing:
    """The trials that shared a pass."""

    trials: int
    """How many there were."""

    passes: int
    """How many passes they had."""

    most: int
    """Trials of the largest pass."""

    seconds: float
    """Time of their training, as far as it can be held against training alone."""

    alone: float | None
    """What that would have taken alone (seconds); None where no final trial of their methods tells."""


def sharing_of(trials: Sequence[Trial]) -> Sharing | None:
    """Return what there is to say of shared passes; None where there were none."""
    shared = [trial for trial in trials if trial.trials_in_pass > 1]
    if not shared:
        return None
    speeds = _speeds(trials)
    seconds = alone = 0.0
    for trial in shared:
        speed = speeds.get((trial.base, trial.method))
        if speed and trial.seconds is not None and trial.curve:
            seconds += trial.seconds
            alone += trial.curve[-1].tokens / speed
    return Sharing(
        trials=len(shared),
        passes=max(1, round(sum(1 / trial.trials_in_pass for trial in shared))),
        most=max(trial.trials_in_pass for trial in shared),
        seconds=seconds,
        alone=alone or None,
    )


def _speeds(trials: Iterable[Trial]) -> dict[tuple[str, str], float]:
    """Return the mean tokens a second of final trials, by base and method."""
    found: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        if trial.stage == "final" and trial.tokens_per_second:
            found.setdefault((trial.base, trial.method), []).append(trial.tokens_per_second)
    return {key: statistics.fmean(speeds) for key, speeds in found.items()}
