"""What `petune compare` shows: the plan, the table while it runs, a line for each trial, and the end."""

import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from petune.cli.measuring import Measuring
from petune.cli.reporting import say, settings_text
from petune.comparison.assignment import threads_of
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.recipe import CompareOptions
from petune.comparison.record import Comparison, Trial
from petune.comparison.run import Planned
from petune.comparison.search import Rung
from petune.comparison.unit import memory_of, units_of
from petune.comparison.watching import Progress, Unwatched

_GIB = 2**30
_MINUTE = 60


def duration(seconds: float) -> str:
    """Return a time as one says it: ``42 s``, ``7 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def base_names(bases: Iterable[str]) -> dict[str, str]:
    """Return a short name for each base: the last part of its path or hub id, or all of it where others end alike."""
    known = dict.fromkeys(bases)
    ends = Counter(Path(base).name for base in known)
    return {base: Path(base).name if ends[Path(base).name] == 1 else base for base in known}


def print_plan(planned: Planned) -> None:
    """Print what would run."""
    head = ("base", "method", "trials", "search", "time", "memory", "trained")
    names = base_names(track.survey.name for track in planned.tracks)
    rows = [
        (names[track.survey.name], track.entry.label, *_plan_cells(track, planned.progress)) for track in planned.tracks
    ]
    _print_columns([head, *rows])
    for track in planned.tracks:
        if track.refusal:
            say(f"{track.entry.label} on {names[track.survey.name]}: {track.refusal}")
    say(f"engine: {_engine(planned.options)}")
    say(
        f"{_to_come(planned.progress)} to go one after another, by what a token of each method costs on this machine."
        " Nothing was run."
    )


def _to_come(progress: Progress) -> str:
    """Return how many trials there are, how many of them are done, and how long the rest takes."""
    done = f", {progress.ended} of them done already" if progress.ended else ""
    return f"{progress.trials} trials{done}; about {duration(progress.seconds_left)}"


def _engine(options: CompareOptions) -> str:
    """Return where the trials would run, and what each would get."""
    threads = threads_of(options)
    each = f"{threads} thread{'' if threads == 1 else 's'} a trial"
    if options.engine != "ray":
        return f"{options.engine}, {each}"
    given = [f"{options.gpus_per_trial:g} GPUs"] if options.gpus_per_trial is not None else []
    given += [options.memory_per_trial] if options.memory_per_trial is not None else []
    where = options.ray_address or "the cluster that is found, or one of this machine"
    return f"ray at {where}, {', '.join([each, *given])}; as many trials at once as it holds"


def _plan_cells(track: Track, progress: Progress) -> tuple[str, ...]:
    if track.refusal:
        return ("not here", "", "", "", "")
    jobs = list(track.expected())
    rounds = ", ".join(map(_round_text, track.rungs)) or "none"
    units = units_of(jobs, [track], share=track.recipe.options.share_passes)
    memory = max(memory_of(unit.jobs, track) for unit in units)
    trained = track.survey.outlook(track.entry.method, track.candidates[0]).trainable
    seconds = sum(map(progress.seconds, jobs))
    return (str(len(jobs)), rounds, duration(seconds), f"{memory / _GIB:.1f} GiB", f"{trained:,}")


def _round_text(rung: Rung) -> str:
    what = "" if not rung.varied else " other setting" if rung.candidates == 1 else " other settings"
    return f"{rung.candidates}{what} at {rung.share:.0%}"


def print_comparison(comparison: Comparison, folder: Path) -> None:
    """Print the final figures, best first, and where the report lies."""
    groups: dict[tuple[str, str, str, str], list[Trial]] = {}
    for trial in comparison.trials:
        if trial.stage != "search":
            identity = (trial.base, trial.method, settings_text(trial.settings), trial.entry)
            groups.setdefault(identity, []).append(trial)
    alike = Counter(identity[:3] for identity in groups)
    names = base_names(trial.base for trial in comparison.trials)
    rows = [("base", "method", "settings", comparison.trials[0].metric if comparison.trials else "", "seeds")]
    for (base, method, settings, entry), trials in groups.items():
        values = [trial.quality for trial in trials if trial.quality is not None]
        figure = _mean(values) if values else trials[0].status.replace("_", " ")
        name = method if alike[base, method, settings] == 1 else f"{method} (entry {entry})"
        rows.append((names[base], name, settings, figure, str(len(values))))
    _print_columns(rows)
    for trial in comparison.trials:
        if trial.reason and trial.stage != "search":
            say(f"{trial.method} on {names[trial.base]}, seed {trial.seed}: {trial.status}: {trial.reason}")
    cost = comparison.search_cost
    say(f"the search: {cost.trials} trials, {duration(cost.seconds)}, {cost.tokens:,} tokens")
    say(f"report: {folder / 'report.html'}")


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 and all(map(math.isfinite, values)) else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


class _Following(Unwatched):
    """Knows how far the trials that run now have come."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._running: dict[str, tuple[Job, float]] = {}

    def stepped(self, job: Job, step: int, total: int) -> None:
        """Note the step."""
        self._running[job.id] = (job, step / total)

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        """Note that it runs no more."""
        self._running.pop(job.id, None)

    def _left(self) -> str:
        """Return the time that the rest will take, in words."""
        assert self._progress is not None
        return f"{duration(self._progress.seconds_left_while(self._running))} left"


@final
class PlainLines(_Following):
    """One line on stderr for each trial that ends, and each minute for one that runs.

    Before the first, some tell what is measured.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(file=sys.stderr)
        self._measuring = Measuring(self._console, plain=True)
        self._said = time.monotonic()
        self._names: dict[str, str] = {}

    def measuring(self, track: Track, number: int, total: int) -> None:
        """Tell what is measured, now and then."""
        self._measuring.tell(track.entry.label, track.survey.name, number, total)

    def planned(self, tracks: Sequence[Track], progress: Progress) -> None:
        """Say how much comes."""
        self._progress = progress
        self._names = base_names(track.survey.name for track in tracks)
        self._print(_to_come(progress))

    def stepped(self, job: Job, step: int, total: int) -> None:
        """Print how far it has come, where a minute has gone by in silence."""
        super().stepped(job, step, total)
        if time.monotonic() - self._said >= _MINUTE:
            told = f"step {step} of {total}  ({self._left()})"
            self._print(f"{job.method}  seed {job.seed}  {settings_text(job.settings)}  {told}")

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        """Print the trial's figure."""
        super().ended(job, trial, reused=reused)
        if reused or self._progress is None:
            return
        progress = self._progress
        figure = trial.reason if trial.quality is None else f"{trial.metric} {trial.quality:.4f}"
        stage = trial.stage if trial.rung is None else f"{trial.stage} {trial.rung + 1}"
        self._print(
            f"{progress.ended}/{progress.trials}  {self._names[trial.base]}  {trial.method}  {stage}  seed {trial.seed}"
            f"  {settings_text(trial.settings)}  {trial.status.replace('_', ' ')}  {figure}"
            f"  ({duration(trial.wall_seconds or 0)}, {self._left()})"
        )

    def _print(self, line: str) -> None:
        self._said = time.monotonic()
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


@dataclass(slots=True)
class _Line:
    """One method on one base, as the table shows it."""

    base: str
    method: str
    rounds: int
    state: str = ""
    settings: str = ""
    development: float | None = None
    higher_is_better: bool = True
    test: list[float] = field(default_factory=list)


@final
class LiveTable(_Following):
    """A table on stderr that changes as trials end: state, best so far, time left."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(file=sys.stderr)
        self._lines: dict[tuple[str, str], _Line] = {}
        self._now = ""
        self._began = time.monotonic()
        self._live: Live | None = None
        self._measuring = Measuring(self._console)

    @staticmethod
    def possible() -> bool:
        """Say whether stderr is a terminal."""
        return Console(file=sys.stderr).is_terminal

    def measuring(self, track: Track, number: int, total: int) -> None:
        """Show what is measured, until the table comes."""
        self._measuring.tell(track.entry.label, track.survey.name, number, total)

    def planned(self, tracks: Sequence[Track], progress: Progress) -> None:
        """Show every method, still without figures."""
        self._measuring.close()
        self._progress = progress
        names = base_names(track.survey.name for track in tracks)
        self._lines = {
            (track.survey.name, track.entry.label): _Line(names[track.survey.name], track.entry.label, len(track.rungs))
            for track in tracks
        }
        self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=4)
        self._live.start()

    def began(self, job: Job) -> None:
        """Name the trial."""
        line = self._lines[job.base, job.entry]
        line.state = "final" if job.rung is None else f"search, round {job.rung + 1} of {line.rounds}"
        self._now = f"{line.base} {job.method} {settings_text(job.settings)} seed {job.seed}"

    def stepped(self, job: Job, step: int, total: int) -> None:
        """Show the step."""
        super().stepped(job, step, total)
        self._now = f"{job.method} {settings_text(job.settings)} seed {job.seed}: step {step} of {total}"

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        """Take its figure in."""
        super().ended(job, trial, reused=reused)
        line = self._lines[job.base, job.entry]
        line.higher_is_better = trial.higher_is_better
        value = trial.development.get(trial.metric)
        if trial.stage == "search" and value is not None and self._is_better(line, value):
            line.development, line.settings = value, settings_text(trial.settings)
        elif trial.stage != "search":
            line.settings = settings_text(trial.settings)
            line.test += [] if trial.quality is None else [trial.quality]
            line.state = trial.status.replace("_", " ")

    @staticmethod
    def _is_better(line: _Line, value: float) -> bool:
        if line.development is None or math.isnan(line.development):
            return True
        return value > line.development if line.higher_is_better else value < line.development

    def closed(self) -> None:
        """Leave the table as it stands."""
        self._measuring.close()
        if self._live is not None:
            self._now = ""
            self._live.stop()
            self._live = None

    def render(self) -> Group:
        """Return the table as it is now."""
        table = Table(box=None, pad_edge=False)
        for name in ("base", "method", "state", "best so far", "development", "test"):
            table.add_column(name, overflow="fold")
        for line in self._lines.values():
            development = "" if line.development is None else f"{line.development:.4f}"
            test = _mean(line.test) if line.test else ""
            table.add_row(*map(Text, (line.base, line.method, line.state, line.settings, development, test)))
        assert self._progress is not None
        return Group(table, Text(self._footer(self._progress)), Text(self._now, style="dim"))

    def _footer(self, progress: Progress) -> str:
        since = duration(time.monotonic() - self._began)
        return f"{progress.ended} of {progress.trials} trials, {since} so far, {self._left()}"
