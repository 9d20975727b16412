"""Which rows make up which step."""

from typing import final

from petune.data.batching import plan_steps
from petune.training.options import TrainingOptions


@final
class Schedule:
    """Which rows make up which step; a function of the rows' lengths, the options and the seed alone.

    Args:
        lengths: tokens of each row.
        options: step size, epochs, seed.
        versions: rows that are versions of one, lie one behind the other and belong to the same step.
    """

    def __init__(self, lengths: list[int], options: TrainingOptions, versions: int = 1) -> None:
        self.lengths = lengths
        self._versions = versions
        self._options = options
        self._epochs: dict[int, list[list[int]]] = {}
        self.total_steps = self._count()

    def steps_of_epoch(self, epoch: int) -> int:
        """Return how many steps an epoch has."""
        return len(self._epoch(epoch))

    def rows(self, step: int) -> tuple[int, list[int]]:
        """Return the epoch of ``step`` (counted from 0) and the indices of its rows."""
        epoch, first = 0, 0
        while step >= first + len(self._epoch(epoch)):
            first += len(self._epoch(epoch))
            epoch += 1
        return epoch, self._epoch(epoch)[step - first]

    def epoch_at(self, steps_done: int) -> float:
        """Return how many epochs ``steps_done`` steps are."""
        epoch, left = 0, steps_done
        while left >= len(self._epoch(epoch)):
            left -= len(self._epoch(epoch))
            epoch += 1
        return epoch + left / len(self._epoch(epoch))

    def ends_epoch(self, steps_done: int) -> bool:
        """Say whether an epoch, or the run, ends with step number ``steps_done``."""
        return steps_done == self.total_steps or self.epoch_at(steps_done).is_integer()

    def _count(self) -> int:
        if self._options.max_steps is not None:
            return self._options.max_steps
        whole = int(self._options.num_train_epochs)
        rest = self._options.num_train_epochs - whole
        steps = sum(len(self._epoch(epoch)) for epoch in range(whole))
        return max(1, steps + round(rest * len(self._epoch(whole))))

    def _epoch(self, epoch: int) -> list[list[int]]:
        if epoch not in self._epochs:
            options = self._options
            rows = options.per_device_train_batch_size * options.gradient_accumulation_steps
            steps = plan_steps(
                self.lengths[:: self._versions],
                rows_per_step=rows if options.tokens_per_step is None else None,
                tokens_per_step=options.tokens_per_step,
                seed=options.seed,
                epoch=epoch,
                group_by_length=options.group_by_length,
            )
            number = self._versions
            self._epochs[epoch] = [[row * number + v for row in step for v in range(number)] for step in steps]
        return self._epochs[epoch]
