"""Trials whose process died: begun again a few times, then given up with the reason."""

from collections import Counter
from collections.abc import Collection
from typing import final

from petune.comparison.record import Status, Trial
from petune.comparison.unit import Unit


@final
class Attempts:
    """Counts how often the process of each trial died.

    Args:
        retries: how often a trial is begun again.
    """

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._lost: Counter[str] = Counter()

    def after_loss(
        self, unit: Unit, *, ended: Collection[str], reason: str, status: Status = "failed"
    ) -> tuple[list[Unit], list[Trial]]:
        """Return what is to be begun again, and the records of what is given up.

        Trials that shared a pass are begun again one by one, which counts against none of them.

        Args:
            unit: what ran in the process that died.
            ended: ids of the trials that had ended.
            reason: what became of the process.
            status: how a trial is recorded that is given up.
        """
        left = [job for job in unit.jobs if job.id not in ended]
        if len(left) == 1:
            (job,) = left
            self._lost[job.id] += 1
            times = self._lost[job.id]
            if times > self._retries:
                told = reason if times == 1 else f"{reason} (begun {times} times, with the same end)"
                return [], [job.record(status, reason=told)]
        return [Unit((job,)) for job in left], []
