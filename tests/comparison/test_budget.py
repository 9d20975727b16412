from typing import Any

import pytest

from petune.comparison.budget import part_of, steps_for, tokens_per_step
from petune.errors import ConfigError
from petune.training.adapter_run import Schedule
from petune.training.options import TrainingOptions

LENGTHS = [5, 9, 7, 3, 8, 6, 4, 10, 2, 11]


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions.model_validate({"per_device_train_batch_size": 3, "seed": 7, **changes})


def test_epochs_are_what_training_makes_of_them() -> None:
    for epochs in (1, 2, 2.5):
        wanted = Schedule(LENGTHS, options(num_train_epochs=epochs)).total_steps
        assert steps_for("epochs", epochs, LENGTHS, options()) == wanted
    assert steps_for("epochs", 0.5, LENGTHS, options()) == 2


@pytest.mark.parametrize("tokens", [30, 65, 66, 150, 1000])
def test_tokens_pay_for_whole_steps(tokens: int) -> None:
    schedule, spent, steps = Schedule(LENGTHS, options(num_train_epochs=100)), 0, 0
    while (spent := spent + sum(LENGTHS[row] for row in schedule.rows(steps)[1])) <= tokens:
        steps += 1
    assert steps_for("tokens", tokens, LENGTHS, options()) == steps


def test_steps_and_seconds() -> None:
    assert steps_for("steps", 12, LENGTHS, options()) == 12
    assert steps_for("seconds", 12, LENGTHS, options()) is None


@pytest.mark.parametrize(("unit", "amount"), [("tokens", 1), ("epochs", 0.05)])
def test_a_budget_too_small_for_one_step(unit: Any, amount: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"{amount:g} {unit} is too small for one step of 3 rows \(about 20 tokens\)"
    ):
        steps_for(unit, amount, LENGTHS, options())


def test_a_part_is_one_step_at_least() -> None:
    assert [part_of(steps, 1 / 9) for steps in (90, 3, None)] == [10, 1, None]


def test_tokens_of_a_step() -> None:
    assert tokens_per_step(LENGTHS, options()) == pytest.approx(19.5)
    assert tokens_per_step(LENGTHS, options(per_device_train_batch_size=64)) == sum(LENGTHS)
