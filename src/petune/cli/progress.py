"""The progress of a training run on the terminal."""

import sys
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from petune.training.events import Evaluated, Plan, Silent, Step


@final
class ProgressBar(Silent):
    """A bar with step, loss, tokens/s, memory and time left; plain lines where stderr is no terminal.

    Args:
        every: steps between lines where there is no bar.
    """

    def __init__(self, every: int = 10) -> None:
        self._console = Console(file=sys.stderr)
        self._every = every
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = 0

    def started(self, plan: Plan) -> None:
        """Show the parameters, then the bar."""
        self._total = plan.total_steps
        self._console.print(plan.parameters, highlight=False, soft_wrap=True)
        if plan.first_step:
            self._print(f"going on from step {plan.first_step}")
        if not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=plan.total_steps, completed=plan.first_step, figures="")
        self._bar.start()

    def stepped(self, step: Step) -> None:
        """Show the step's figures."""
        figures = f"loss {step.loss:.4f}  {step.tokens_per_second:,.0f} tokens/s  {step.memory / 2**20:,.0f} MiB"
        if self._bar is not None:
            self._bar.update(self._task, completed=step.step, figures=figures)
        elif step.step % self._every == 0 or step.step == self._total:
            self._print(f"step {step.step}/{self._total}  {figures}")

    def evaluated(self, evaluation: Evaluated) -> None:
        """Show the metrics."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        self._print(f"validation at step {evaluation.step}: {metrics}{'  (best)' if evaluation.best else ''}")

    def ended(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
