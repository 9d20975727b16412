"""What commands print of the objects they get."""

import sys
from collections.abc import Mapping

from petune.data.report import DataReport
from petune.training.run import TrainingResult


def say(text: str = "") -> None:
    """Print a line of results to stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def print_data_reports(train: DataReport, evaluation: DataReport | None) -> None:
    """Print the data reports of the training rows and, where there are any, the validation rows."""
    say(train.render())
    if evaluation is not None:
        say("validation rows:")
        say(evaluation.render())
    say()


def print_metrics(metrics: Mapping[str, float]) -> None:
    """Print one metric a line."""
    width = max((len(name) for name in metrics), default=0)
    for name, value in metrics.items():
        say(f"{name:<{width}}  {value:.4f}")


def print_result(result: TrainingResult) -> None:
    """Print where the adapter lies, how training ended, and the command to use it."""
    say(
        f"{result.steps} steps in {result.seconds:.0f} s, peak memory {result.peak_memory / 2**20:,.0f} MiB,"
        f" training loss {result.train_loss:.4f}"
    )
    if result.eval_metrics:
        print_metrics(result.eval_metrics)
    say(f"adapter: {result.output_dir}")
    if result.model.model.can_generate():
        say(f'use it:  petune generate --adapter {result.output_dir} --prompt "..."')
    else:
        say(f"use it:  petune predict --adapter {result.output_dir} --data rows.jsonl")
