"""Several tasks in one run: which of them each step is of, and which of its rows.

Every step is of one task. It goes to the task that is farthest behind its share of the steps, so that no task is ever
more than one step ahead of its share, and that the same settings always give the same order. A task's own rows come in
the order in which they would come in a run of their own, one epoch after the other.
"""

from collections.abc import Mapping, Sequence
from typing import final

from petune.training.options import TrainingOptions
from petune.training.schedule import Schedule


@final
class MixedSchedule:
    """Which rows make up which step, where rows are of several tasks.

    Args:
        lengths: tokens of each row.
        tasks: name of the task of each row.
        weights: each task's share of the steps, in any unit; empty for shares by which every row is seen once an epoch.
        options: step size, epochs, seed.
        versions: rows that are versions of one, lie one behind the other and belong to the same step.
    """

    def __init__(
        self,
        lengths: list[int],
        tasks: Sequence[str],
        weights: Mapping[str, float],
        options: TrainingOptions,
        versions: int = 1,
    ) -> None:
        self.lengths = lengths
        self._indices: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            self._indices.setdefault(task, []).append(index)
        self._schedules = {
            task: Schedule([lengths[i] for i in own], options, versions) for task, own in self._indices.items()
        }
        self._order: list[tuple[str, int]] = []
        self._done = dict.fromkeys(self._schedules, 0)
        sizes = {task: schedule.steps_of_epoch(0) for task, schedule in self._schedules.items()}
        self._epoch_steps = sum(sizes.values())
        given = {task: weights.get(task, 0.0) for task in sizes} if weights else sizes
        self.shares = {task: weight / sum(given.values()) for task, weight in given.items()}
        """Each task's share of the steps; they add up to 1."""
        self.total_steps = options.max_steps or max(1, round(options.num_train_epochs * self._epoch_steps))

    def rows(self, step: int) -> tuple[int, list[int]]:
        """Return the epoch of ``step`` (counted from 0) and the indices of its rows, all of one task."""
        task, own_step = self._at(step)
        _, chosen = self._schedules[task].rows(own_step)
        return step // self._epoch_steps, [self._indices[task][i] for i in chosen]

    def epoch_at(self, steps_done: int) -> float:
        """Return how many epochs ``steps_done`` steps are: in one, there are as many steps as all rows make."""
        return steps_done / self._epoch_steps

    def ends_epoch(self, steps_done: int) -> bool:
        """Say whether an epoch, or the run, ends with step number ``steps_done``."""
        return steps_done == self.total_steps or steps_done % self._epoch_steps == 0

    def _at(self, step: int) -> tuple[str, int]:
        """Return the task of ``step``, and which of that task's own steps it is."""
        while len(self._order) <= step:
            count = len(self._order) + 1
            task = max(self.shares, key=lambda task: self.shares[task] * count - self._done[task])
            self._order.append((task, self._done[task]))
            self._done[task] += 1
        return self._order[step]
