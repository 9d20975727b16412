"""What commands print of the objects they get."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from petune.errors import DataError

if TYPE_CHECKING:
    from petune.data.report import DataReport
    from petune.training.result import Candidate, TrainingResult

ESTIMATE_SHARE = 0.05
"""How much of a training's time the estimate before it may take."""


def say(text: str = "") -> None:
    """Print a line of results to stdout."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return settings as one writes them on the command line."""
    return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in settings.items())


def undecodable(error: UnicodeDecodeError) -> DataError:
    """Return the error that stdin is no text, with the way out."""
    return DataError(f"stdin is not {error.encoding}: {error.reason} at byte {error.start:,}; convert it")


def print_data_reports(train: "DataReport", evaluation: "DataReport | None") -> None:
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


def print_candidates(candidates: Sequence["Candidate"]) -> None:
    """Print each candidate's metrics, its options behind them."""
    for candidate in candidates:
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in candidate.metrics.items())
        form = json.dumps(dict(candidate.form), ensure_ascii=False) if candidate.form else "as the run has it"
        say(f"{'*' if candidate.chosen else ' '} {metrics}  {form}")


def print_result(result: "TrainingResult") -> None:
    """Print where the adapter lies, how training or the choice ended, and the command to use it."""
    cost = f"in {result.seconds:.0f} s, peak memory {result.peak_memory / 2**20:,.0f} MiB"
    if result.candidates:
        print_candidates(result.candidates)
        tried = "1 candidate" if len(result.candidates) == 1 else f"{len(result.candidates)} candidates"
        say(f"{tried} {cost}; the best one (*) is kept")
    else:
        loss = "" if result.train_loss is None else f", training loss {result.train_loss:.4f}"
        say(f"{result.steps} steps {cost}{loss}")
        if result.estimate is not None:
            for line in result.estimate.against(seconds=result.seconds, memory=result.peak_memory, steps=result.steps):
                say(line)
        if result.eval_metrics:
            say(f"on the validation rows, after step {result.kept_step}, which is kept:")
            print_metrics(result.eval_metrics)
    say(f"adapter: {result.output_dir}")
    folder = shlex.quote(str(result.output_dir))
    tasks = result.model.adapter(result.adapter_name).tasks
    if tasks:
        names = "|".join(task.name for task in tasks)
        say(f"use it:  petune predict --adapter {folder} --task-name {names} --data rows.jsonl")
    elif result.model.model.can_generate():
        say(f'use it:  petune generate --adapter {folder} --prompt "..."')
    else:
        say(f"use it:  petune predict --adapter {folder} --data rows.jsonl")
