"""Trials whose process died: begun again a few times, then given up with the reason."""

from collections import Counter
from collections.abc import Collection
from typing import final

from petune.comparison.assignment import Unit
from petune.comparison.record import Status, Trial


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
        self, unit: Unit, *, ended: Collection[str], begun: Collection[str], reason: str, status: Status = "failed"
    ) -> tuple[list[Unit], list[Trial]]:
        """Return what is to be begun again, each trial alone, and the records of what is given up.

        Args:
            unit: what ran in the process that died.
            ended: ids of the trials that had ended.
            begun: ids of those that had begun; where none has, the death counts for all that are left.
            reason: what became of the process.
            status: how a trial is recorded that is given up.
        """
        left = [job for job in unit if job.id not in ended]
        suspects = [job for job in left if job.id in begun] or left
        self._lost.update(job.id for job in suspects)
        hopeless = [job for job in suspects if self._lost[job.id] > self._retries]
        again: list[Unit] = [(job,) for job in left if job not in hopeless]
        return again, [job.record(status, reason=self._told(reason, self._lost[job.id])) for job in hopeless]

    @staticmethod
    def _told(reason: str, times: int) -> str:
        return reason if times == 1 else f"{reason} (begun {times} times, with the same end)"
