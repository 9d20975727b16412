"""The progress of training runs on the terminal."""

import sys
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from petune.training.estimate import Estimate
from petune.training.events import Evaluated, Plan, Silent, Step


@final
class Screen:
    """The terminal, with one bar for each run that is going on; without bars where stderr is no terminal."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._bars: Progress | None = None
        self._open: set[TaskID] = set()

    def add(self, name: str, total: int, done: int) -> TaskID | None:
        """Show a bar for the run called ``name``; None where there are no bars."""
        if not self._console.is_terminal:
            return None
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description}step {task.completed}/{task.total}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[figures]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bars.start()
        task = self._bars.add_task(name, total=total, completed=done, figures="")
        self._open.add(task)
        return task

    def update(self, task: TaskID, step: int, figures: str) -> None:
        """Show the figures of a step in a bar."""
        assert self._bars is not None
        self._bars.update(task, completed=step, figures=figures)

    def close(self, task: TaskID) -> None:
        """Leave a bar as it is; the last one takes the display down."""
        self._open.discard(task)
        if self._bars is not None and not self._open:
            self._bars.stop()
            self._bars = None

    def print(self, line: str) -> None:
        """Print a line, above the bars."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


@final
class ProgressBar(Silent):
    """A bar with step, loss, tokens/s, memory and time left; plain lines where stderr is no terminal.

    Args:
        every: steps between lines where there is no bar.
        name: what is put in front of each line, where there are several runs.
        screen: where to show it; runs that go on at once share one.
    """

    def __init__(self, every: int = 10, *, name: str = "", screen: Screen | None = None) -> None:
        self._screen = screen or Screen()
        self._every = every
        self._before = f"{name}: " if name else ""
        self._task: TaskID | None = None
        self._total = 0

    def started(self, plan: Plan) -> None:
        """Show the parameters, then the bar."""
        self._total = plan.total_steps
        self._print(plan.parameters)
        if plan.first_step:
            self._print(f"going on from step {plan.first_step}")
        self._task = self._screen.add(self._before, plan.total_steps, plan.first_step)

    def estimated(self, estimate: Estimate) -> None:
        """Show time and memory."""
        for line in estimate.lines():
            self._print(line)

    def stepped(self, step: Step) -> None:
        """Show the step's figures."""
        figures = f"loss {step.loss:.4f}  {step.tokens_per_second:,.0f} tokens/s  {step.memory / 2**20:,.0f} MiB"
        if self._task is not None:
            self._screen.update(self._task, step.step, figures)
        elif step.step % self._every == 0 or step.step == self._total:
            self._print(f"step {step.step}/{self._total}  {figures}")

    def evaluated(self, evaluation: Evaluated) -> None:
        """Show the metrics."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())
        self._print(f"validation at step {evaluation.step}: {metrics}{'  (best)' if evaluation.best else ''}")

    def ended(self) -> None:
        """Leave the bar."""
        if self._task is not None:
            self._screen.close(self._task)
            self._task = None

    def _print(self, line: str) -> None:
        self._screen.print(f"{self._before}{line}")
