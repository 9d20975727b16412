"""What a training run made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from petune.adapted_model import AdaptedModel
from petune.checkpoint.durable import write_text
from petune.checkpoint.folder import save_adapter
from petune.data.report import DataReport, joined
from petune.errors import PetuneError
from petune.training import output
from petune.training.estimate import Estimate
from petune.training.recipe import Recipe


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to write the rows that was tried, for a method that chooses instead of training."""

    form: Mapping[str, Any]
    """The options of reading in which it differs from the run's own, such as ``template``."""

    metrics: Mapping[str, float]
    """What was measured with it; the metric that decides is the first."""

    chosen: bool
    """Whether it is the one that was kept."""


@final
@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training run made."""

    model: AdaptedModel
    """The base with the trained adapter attached, ready to use; with others, where several were trained at once."""

    output_dir: Path
    """The adapter's folder."""

    steps: int
    """Optimiser steps done."""

    kept_step: int
    """The step after which the adapter was as it is kept: that of the best evaluation, or the last."""

    seconds: float
    """Time of the steps of this process, evaluations and the steps of runs that shared the base included."""

    peak_memory: int
    """Most bytes held since the base was loaded: by the process on CPU, by tensors on CUDA."""

    trained_parameters: int
    """Numbers learned, those that only training needs included."""

    history: list[dict[str, Any]]
    """The entries of ``metrics.jsonl``."""

    reports: tuple[tuple[DataReport, DataReport | None], ...]
    """What became of the training and the validation rows; a pair for each task."""

    candidates: tuple[Candidate, ...] = ()
    """What was tried, where the method chooses instead of training."""

    estimate: Estimate | None = None
    """Time and memory as they were estimated before the first step, where that was asked for."""

    adapter_name: str = "default"
    """The name under which the adapter is attached to the model."""

    @property
    def train_report(self) -> DataReport:
        """What became of the training rows, those of all tasks together."""
        return joined([train for train, _ in self.reports])

    @property
    def eval_report(self) -> DataReport | None:
        """What became of the validation rows, those of all tasks together; None where there are none."""
        reports = [evaluation for _, evaluation in self.reports if evaluation is not None]
        return joined(reports) if reports else None

    @property
    def train_loss(self) -> float | None:
        """Training loss of the last entry (nats per label token); None where nothing was trained."""
        return next((float(e["loss"]) for e in reversed(self.history) if "loss" in e), None)

    @property
    def eval_metrics(self) -> dict[str, float]:
        """Metrics of the adapter that is kept; empty where nothing but the loss of training was measured."""
        for candidate in self.candidates:
            if candidate.chosen:
                return dict(candidate.metrics)
        evaluations = (e for e in self.history if e.get("step") == self.kept_step and "eval_loss" in e)
        return {n.removeprefix("eval_"): v for e in evaluations for n, v in e.items() if n.startswith("eval_")}


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """How one of several runs that shared a base ended."""

    name: str
    """The name of its adapter."""

    recipe: Recipe
    """What was asked for."""

    result: TrainingResult | None
    """What it made; None where it failed."""

    error: PetuneError | None
    """Why it failed."""


def run_summary(result: TrainingResult, recipe: Recipe) -> dict[str, Any]:
    """Return what there is to say of every run, for ``train_results.json`` and the adapter's folder."""
    estimate = {} if result.estimate is None else {"estimate": result.estimate.to_dict()}
    return {
        "data": ", ".join(str(task.data.data) for task in recipe.run.run_tasks()),
        "rows": result.train_report.rows_kept,
        "steps": result.steps,
        "seed": recipe.run.seed,
        "eval": result.eval_metrics,
        "seconds": round(result.seconds, 1),
        "peak_memory_bytes": result.peak_memory,
        **estimate,
    }


def save_run(result: TrainingResult, summary: dict[str, Any]) -> None:
    """Write ``train_results.json`` and the adapter."""
    write_text(result.output_dir / output.RESULTS_FILE, json.dumps(summary, indent=2) + "\n")
    save_adapter(result.model, result.output_dir, name=result.adapter_name, training=summary)
