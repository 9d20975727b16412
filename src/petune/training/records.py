"""The written records of a run: history, ``metrics.jsonl``, ``trainer_state.json``, the loss plot, trackers."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any, final

from accelerate import Accelerator

from petune.checkpoint.durable import explained, write_file, write_text
from petune.training.adapter_run import AdapterRun
from petune.training.events import Evaluated, Plan, Silent, Step

METRICS_FILE = "metrics.jsonl"
STATE_FILE = "trainer_state.json"
PLOT_FILE = "loss.png"


@final
class Recorder(Silent):
    """Keeps the run's history, one entry every ``logging_steps`` steps and one for each evaluation.

    ``metrics.jsonl`` gets each entry at once; a resumed run writes anew what its checkpoint remembers, so that steps
    done twice do not stand there twice. The same entries go to the trackers.

    Args:
        run: the adapter's run; its history goes into its checkpoints.
        output: folder of ``metrics.jsonl``.
        accelerator: holds the trackers.
    """

    def __init__(self, run: AdapterRun, output: Path, accelerator: Accelerator) -> None:
        self._run = run
        self._path = output / METRICS_FILE
        self._accelerator = accelerator
        self._last: Step | None = None

    def started(self, plan: Plan) -> None:
        """Write what the history holds already."""
        write_text(self._path, "".join(_line(entry) for entry in self._run.progress.history))

    def stepped(self, step: Step) -> None:
        """Take the step's loss into the running mean; write an entry when one is due."""
        self._run.progress.losses_since_log.append(step.loss)
        if step.task:
            self._run.progress.losses_of_tasks.setdefault(step.task, []).append(step.loss)
        self._last = step
        if step.step % self._run.options.logging_steps == 0 or step.step == self._run.total_steps:
            self._write_step(step)

    def ended(self) -> None:
        """Write an entry for the steps since the last one: a run may stop between two."""
        if self._last is not None and self._run.progress.losses_since_log:
            self._write_step(self._last)

    def _write_step(self, step: Step) -> None:
        progress = self._run.progress
        loss = fmean(progress.losses_since_log)
        of_tasks = {f"{name}/loss": fmean(losses) for name, losses in progress.losses_of_tasks.items()}
        progress.losses_since_log.clear()
        progress.losses_of_tasks.clear()
        self._write(
            {
                "step": step.step,
                "epoch": round(step.epoch, 4),
                "loss": loss,
                **of_tasks,
                "learning_rate": step.learning_rate,
                "grad_norm": step.grad_norm,
                "tokens_per_second": round(step.tokens_per_second, 1),
                "peak_memory_bytes": step.memory,
            }
        )

    def evaluated(self, evaluation: Evaluated) -> None:
        """Write the evaluation."""
        metrics = {f"eval_{name}": value for name, value in evaluation.metrics.items()}
        self._write({"step": evaluation.step, "epoch": round(evaluation.epoch, 4), **metrics})

    def _write(self, entry: dict[str, Any]) -> None:
        self._run.progress.history.append(entry)
        with explained(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))
        values = {name: value for name, value in entry.items() if name not in ("step", "epoch")}
        self._accelerator.log(values, step=entry["step"])


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def write_trainer_state(run: AdapterRun, output: Path) -> None:
    """Write ``trainer_state.json``, with the keys transformers' Trainer uses."""
    progress = run.progress
    best = progress.best_step
    content = {
        "global_step": progress.step,
        "max_steps": run.total_steps,
        "epoch": run.epoch,
        "num_train_epochs": run.options.num_train_epochs,
        "train_batch_size": run.options.per_device_train_batch_size,
        "best_global_step": best,
        "best_metric": _best_metric(run),
        "best_model_checkpoint": None if best is None else f"checkpoint-{best}",
        "log_history": progress.history,
    }
    write_text(output / STATE_FILE, json.dumps(content, indent=2) + "\n")


def _best_metric(run: AdapterRun) -> float | None:
    key = f"eval_{run.options.best_metric}"
    return next((e[key] for e in run.progress.history if e["step"] == run.progress.best_step and key in e), None)


def plot_loss(run: AdapterRun, output: Path) -> None:
    """Draw training and validation loss over the steps as ``loss.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(entry["step"], entry[key]) for entry in run.progress.history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (nats per label token)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    write_file(output / PLOT_FILE, lambda path: figure.savefig(path, format="png"))
