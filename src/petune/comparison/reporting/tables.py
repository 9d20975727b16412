"""The tables of the report: quality and size, learning, cost, forgetting."""

import statistics
from collections.abc import Callable

from petune.comparison.record import Forgetting, Trial
from petune.comparison.reporting.columns import Better, Cell, Column, Table, mean_column
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.quantities import change, count, duration, number, share, signed, size
from petune.comparison.reporting.standing import Standing


def rise(trial: Trial) -> float | None:
    """Return how far the validation loss ended above its least (nats per label token)."""
    return None if trial.eval_loss is None or trial.best_eval_loss is None else trial.eval_loss - trial.best_eval_loss


def gap(trial: Trial) -> float | None:
    """Return how far the validation loss ended above the training loss (nats per label token)."""
    return None if trial.eval_loss is None or trial.train_loss is None else trial.eval_loss - trial.train_loss


def last_step(trial: Trial) -> int | None:
    """Return the last step of the training; None where it had none."""
    return trial.curve[-1].step if trial.curve else None


def _quality(contender: Contender, standing: Standing) -> Cell | None:
    spread = contender.quality
    if spread is None:
        return None
    seeds = f"{spread.count} seeds" if spread.count > 1 else "1 seed"
    low, high = number(spread.low), number(spread.high)
    ranged = (f"{low} to {high}",) if low != high else ()
    return Cell(number(spread.mean), (*ranged, seeds))


def _distance(contender: Contender, standing: Standing) -> Cell | None:
    if contender == standing.best:
        return Cell("best")
    found = standing.differences.get(contender.number)
    if found is None:
        return None
    verdict = ("within noise",) if found.within_noise else ()
    return Cell(signed(found.mean), (f"{signed(found.low)} to {signed(found.high)}", *verdict))


def _best_step(contender: Contender, standing: Standing) -> Cell | None:
    steps = [trial.best_step for trial in contender.done if trial.best_step is not None]
    if not steps:
        return None
    last = [step for trial in contender.done if (step := last_step(trial)) is not None]
    return Cell(step_range(steps), (f"of {step_range(last)}",) if last else ())


def step_range(steps: list[int]) -> str:
    """Return steps as ``400`` or ``300 to 400``."""
    low, high = min(steps), max(steps)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _change(
    head: str,
    meaning: str,
    before: Callable[[Forgetting], float | None],
    after: Callable[[Forgetting], float | None],
    write: Callable[[float], str],
    better: Better | None = None,
) -> Column:
    """Return a column that says what a figure of forgetting became, and what it was."""

    def changed(trial: Trial) -> float | None:
        if trial.forgetting is None:
            return None
        first, last = before(trial.forgetting), after(trial.forgetting)
        return None if first is None or last is None else last - first

    def cell(contender: Contender, standing: Standing) -> Cell | None:
        measured = [trial for trial in contender.done if changed(trial) is not None]
        if not measured:
            return None
        first = sum(before(t.forgetting) or 0.0 for t in measured if t.forgetting) / len(measured)
        last = sum(after(t.forgetting) or 0.0 for t in measured if t.forgetting) / len(measured)
        return Cell(write(last), (f"before {write(first)}",))

    return Column(head, meaning, cell, lambda contender: contender.mean(changed), better)


def _latency(contender: Contender, standing: Standing) -> Cell | None:
    added = [ratio - 1 for ratio in contender.figures(lambda trial: trial.generation_latency_ratio)]
    if not added:
        return None
    low, high = change(min(added)), change(max(added))
    return Cell(change(statistics.median(added)), (f"{low} to {high}",) if low != high else ())


def _per_second(value: float) -> str:
    return f"{count(value)}/s"


QUALITY = Table(
    "quality",
    "Quality and size",
    (
        Column("Quality", "the chosen metric on the test split: mean, range and number of seeds", _quality),
        Column(
            "Against the best",
            "difference of the rows' mean score from the best method's, with its 95 % interval (paired bootstrap)",
            _distance,
        ),
        mean_column("Trainable", "numbers learned", lambda t: t.trainable_parameters, count, "low"),
        mean_column("Share", "numbers learned for each of the base", lambda t: t.trainable_share, share, "low"),
        mean_column("Stored", "size of what is kept for the task", lambda t: t.bytes_stored, size, "low"),
    ),
)
LEARNING = Table(
    "learning",
    "Learning and overfitting",
    (
        mean_column("Training loss", "at the end, nats per label token", lambda t: t.train_loss, number, ranges=True),
        mean_column(
            "Validation loss", "at the end, nats per label token", lambda t: t.eval_loss, number, "low",
            ranges=True, per_token=True,
        ),
        mean_column("Gap", "validation loss less training loss, at the end", gap, signed),
        mean_column(
            "Least validation loss", "nats per label token", lambda t: t.best_eval_loss, number, "low",
            ranges=True, per_token=True,
        ),
        Column("At step", "optimiser step of the least validation loss, of all steps", _best_step),
        mean_column("Risen since", "validation loss at the end less its least", rise, signed),
    ),
)  # fmt: skip
COST = Table(
    "cost",
    "Cost",
    (
        mean_column(
            "Peak memory", "most held, evaluations included", lambda t: t.peak_memory_bytes, size, "low", ranges=True,
        ),
        mean_column("Training time", "evaluations left out", lambda t: t.seconds, duration, "low", ranges=True),
        mean_column(
            "Training speed", "tokens per second", lambda t: t.tokens_per_second, _per_second, "high", ranges=True,
        ),
        mean_column(
            "Generation speed", "tokens written per second", lambda t: t.generation_tokens_per_second, _per_second,
            ranges=True,
        ),
        Column("Added latency", "time of a written token beyond the bare base's: median and range", _latency),
    ),
)  # fmt: skip
FORGETTING = Table(
    "forgetting",
    "Forgetting",
    (
        _change(
            "Neutral text", "loss on neutral held-out text, nats per token",
            lambda f: f.neutral_loss_before, lambda f: f.neutral_loss_after, number, "low",
        ),
        _change(
            "Other language", "share of answers in another language than their prompt",
            lambda f: f.other_language_share_before, lambda f: f.other_language_share_after, share, "low",
        ),
        _change(
            "Length of answers", "mean number of tokens",
            lambda f: f.answer_tokens_before, lambda f: f.answer_tokens_after, lambda v: f"{v:,.1f}",
        ),
    ),
)  # fmt: skip
TABLES = (QUALITY, LEARNING, COST, FORGETTING)
"""The tables of each base."""
