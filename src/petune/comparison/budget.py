"""A budget as optimiser steps: the same rows, in the same order, for every method."""

from collections.abc import Sequence

from petune.comparison.recipe import BudgetUnit
from petune.errors import ConfigError
from petune.training.options import TrainingOptions
from petune.training.schedule import Schedule


def steps_for(unit: BudgetUnit, amount: float, lengths: Sequence[int], options: TrainingOptions) -> int | None:
    """Return the optimiser steps that a budget pays for; None for seconds, which are known once a method has run.

    Args:
        unit: what the budget counts.
        amount: how many of them.
        lengths: tokens of each training row, without what a method adds.
        options: size of a step, and the seed of the order.

    Raises:
        ConfigError: the budget pays for no step.
    """
    if unit == "seconds":
        return None
    if unit == "steps":
        steps = int(amount)
    elif unit == "tokens":
        steps = steps_for_tokens(amount, lengths, options)
    else:
        epoch = Schedule(list(lengths), options.model_copy(update={"num_train_epochs": 1.0})).total_steps
        steps = round(amount * epoch)
    if steps < 1:
        rows = options.per_device_train_batch_size * options.gradient_accumulation_steps
        raise ConfigError(
            f"a budget of {amount:g} {unit} is too small for one step of {rows} rows (about"
            f" {tokens_per_step(lengths, options):,.0f} tokens); give more, or make the step smaller with"
            " --per-device-train-batch-size"
        )
    return steps


def steps_for_tokens(tokens: float, lengths: Sequence[int], options: TrainingOptions) -> int:
    """Return how many steps, from the first, take no more than ``tokens`` tokens."""
    epochs, left = divmod(tokens, sum(lengths))  # every epoch has every row once
    schedule = Schedule(list(lengths), options.model_copy(update={"num_train_epochs": 1.0}))
    steps = int(epochs) * schedule.total_steps
    while (left := left - sum(lengths[row] for row in schedule.rows(steps)[1])) >= 0:
        steps += 1
    return steps


def tokens_per_step(lengths: Sequence[int], options: TrainingOptions) -> float:
    """Return the mean number of tokens of a step."""
    rows = options.per_device_train_batch_size * options.gradient_accumulation_steps
    return min(rows, len(lengths)) * sum(lengths) / len(lengths)


def part_of(steps: int | None, share: float) -> int | None:
    """Return a share of the steps, one at least."""
    return None if steps is None else max(1, round(steps * share))
