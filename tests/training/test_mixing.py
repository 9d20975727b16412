"""Which task each step is of, and which rows of it."""

from collections import Counter

import pytest

from petune.training.mixing import MixedSchedule
from petune.training.options import TrainingOptions
from petune.training.schedule import Schedule

LENGTHS = [5, 9, 3, 7, 4, 8, 6, 2, 5, 5, 9, 1, 3, 3]
TASKS = ["a"] * 8 + ["b"] * 2 + ["c"] * 4


def tasks_of(schedule: MixedSchedule, steps: int) -> list[str]:
    """Return the task of each step, after seeing that all of its rows are of it."""
    found = [{TASKS[row] for row in schedule.rows(step)[1]} for step in range(steps)]
    assert all(len(tasks) == 1 for tasks in found)
    return [tasks.pop() for tasks in found]


def test_without_weights_every_row_comes_once_an_epoch() -> None:
    options = TrainingOptions(per_device_train_batch_size=2, num_train_epochs=2)
    schedule = MixedSchedule(LENGTHS, TASKS, {}, options)
    assert schedule.total_steps == 14
    assert schedule.shares == {"a": 4 / 7, "b": 1 / 7, "c": 2 / 7}
    for epoch in range(2):
        rows = [row for step in range(7) for row in schedule.rows(epoch * 7 + step)[1]]
        assert sorted(rows) == list(range(14))
    assert [schedule.rows(step)[0] for step in (0, 6, 7, 13)] == [0, 0, 1, 1]
    assert (schedule.epoch_at(7), schedule.ends_epoch(7), schedule.ends_epoch(8)) == (1.0, True, False)


def test_weights_are_shares_of_the_steps_at_every_moment() -> None:
    weights = {"a": 1.0, "b": 3.0, "c": 2.0}
    schedule = MixedSchedule(LENGTHS, TASKS, weights, TrainingOptions(max_steps=600))
    order = tasks_of(schedule, 600)
    assert Counter(order) == {"a": 100, "b": 300, "c": 200}
    for steps in range(1, 600):
        done = Counter(order[:steps])
        assert all(done[task] < steps * weight / 6 + 1 for task, weight in weights.items())
    assert order == tasks_of(MixedSchedule(LENGTHS, TASKS, weights, TrainingOptions(max_steps=600)), 600)


def test_the_rows_of_a_task_come_as_in_a_run_of_its_own() -> None:
    options = TrainingOptions(per_device_train_batch_size=2, max_steps=40, seed=7)
    schedule = MixedSchedule(LENGTHS, TASKS, {"a": 1, "b": 1, "c": 1}, options)
    alone = Schedule([length for length, task in zip(LENGTHS, TASKS, strict=True) if task == "c"], options)
    own = [rows for step in range(40) if TASKS[(rows := schedule.rows(step)[1])[0]] == "c"]
    assert own == [[row + 10 for row in alone.rows(step)[1]] for step in range(len(own))]


def test_any_step_can_be_asked_for_first() -> None:
    def schedule() -> MixedSchedule:
        return MixedSchedule(LENGTHS, TASKS, {}, TrainingOptions(per_device_train_batch_size=3))

    whole = [schedule().rows(step) for step in range(12)]
    late = schedule()
    assert [late.rows(step) for step in (11, 3, 0)] == [whole[11], whole[3], whole[0]]


def test_versions_of_a_row_stay_together() -> None:
    options = TrainingOptions(per_device_train_batch_size=2, max_steps=7)
    schedule = MixedSchedule(LENGTHS, TASKS, {}, options, versions=2)
    for step in range(7):
        _, rows = schedule.rows(step)
        assert all(rows[i] % 2 == 0 and rows[i + 1] == rows[i] + 1 for i in range(0, len(rows), 2))


def test_part_of_an_epoch_is_part_of_the_steps() -> None:
    half = TrainingOptions(per_device_train_batch_size=2, num_train_epochs=0.5)
    assert MixedSchedule(LENGTHS, TASKS, {}, half).total_steps == pytest.approx(7 / 2, abs=0.5)
    none = TrainingOptions(per_device_train_batch_size=2, num_train_epochs=0.01)
    assert MixedSchedule(LENGTHS, TASKS, {}, none).total_steps == 1
