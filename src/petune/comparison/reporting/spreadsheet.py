"""The trials as CSV: a line for each, every figure in full.

A spreadsheet program takes a text that begins with ``=`` and its like for a formula and runs it; such texts get an
apostrophe in front, which those programs understand as "this is text".
"""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from petune.comparison.record import Comparison, Trial
from petune.comparison.reporting.contenders import title_of

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_IDENTITY = ("id", "base", "method", "entry", "stage", "rung", "seed", "status", "reason")
_FIGURES = (
    "trainable_parameters", "trainable_share", "bytes_stored", "train_loss", "eval_loss", "best_eval_loss", "best_step",
    "peak_memory_bytes", "seconds", "wall_seconds", "tokens_per_second", "generation_tokens_per_second",
    "generation_latency_ratio", "trials_in_pass",
)  # fmt: skip
_LAST = ("adapter", "command")


def spreadsheet(comparison: Comparison) -> str:
    """Return the trials as CSV with a line of names; what was not measured is empty."""
    lines = [_line(trial) for trial in comparison.trials]
    names = _in_order(lines)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(harmless(name) for name in names)
    writer.writerows([line.get(name, "") for name in names] for line in lines)
    return text.getvalue()


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _line(trial: Trial) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(trial, name) for name in _IDENTITY}
    values["title"] = title_of(trial.method)
    values["settings"] = json.dumps(trial.settings, ensure_ascii=False, default=str)
    values["budget"], values["budget_unit"] = trial.budget.amount, trial.budget.unit
    values["metric"], values["higher_is_better"] = trial.metric, str(trial.higher_is_better).lower()
    values |= {f"test_{name}": value for name, value in trial.test.items()}
    values |= {f"development_{name}": value for name, value in trial.development.items()}
    values |= {name: getattr(trial, name) for name in _FIGURES}
    if trial.forgetting is not None:
        values |= trial.forgetting.model_dump()
    values |= {name: getattr(trial, name) for name in _LAST}
    return {name: _written(value) for name, value in values.items()}


def _written(value: Any) -> Any:
    if value is None:
        return ""
    return harmless(value) if isinstance(value, str) else value


def _in_order(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of all lines: what they are, then their figures, the long texts last."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    return sorted(names, key=lambda name: (name in _LAST, name in _FIGURES and not name.startswith(("test_",))))
