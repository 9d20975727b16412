"""Who follows a comparison: what they are told, and how far it has come."""

from collections.abc import Mapping, Sequence
from typing import Protocol, final

from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.training.events import Plan, Silent, Step


class Watcher(Protocol):
    """Somebody who follows a comparison. Watchers see; they change nothing."""

    def measuring(self, track: Track, number: int, total: int) -> None:
        """What a method costs is measured next on a stand-in of its base: the ``number``-th of ``total``."""

    def planned(self, tracks: Sequence[Track], progress: "Progress") -> None:
        """The first trial comes next; ``progress`` stays current."""

    def began(self, job: Job) -> None:
        """A trial begins."""

    def stepped(self, job: Job, step: int, total: int) -> None:
        """A trial has done a step of its training."""

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        """A trial has ended, or had ended in an earlier call."""

    def closed(self) -> None:
        """No more trials come; also called when the comparison is stopped."""


class Unwatched:
    """A watcher that ignores everything; others override what they care for."""

    def measuring(self, track: Track, number: int, total: int) -> None:
        """Ignore it."""

    def planned(self, tracks: Sequence[Track], progress: "Progress") -> None:
        """Ignore it."""

    def began(self, job: Job) -> None:
        """Ignore it."""

    def stepped(self, job: Job, step: int, total: int) -> None:
        """Ignore it."""

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        """Ignore it."""

    def closed(self) -> None:
        """Ignore it."""


@final
class StepsOf(Silent):
    """Tells a watcher of the steps of one trial."""

    def __init__(self, job: Job, watcher: Watcher) -> None:
        self._job = job
        self._watcher = watcher
        self._total = 0

    def started(self, plan: Plan) -> None:
        """Note how many steps come."""
        self._total = plan.total_steps

    def stepped(self, step: Step) -> None:
        """Pass it on."""
        self._watcher.stepped(self._job, step.step, self._total)


@final
class Progress:
    """How far a comparison has come, and how long the rest will take: estimates, set right by what trials took.

    Args:
        tracks: what will run.
        speed: multiply-adds a second that estimates are made with.
        trials_at_once: how many trials run at the same time.
    """

    def __init__(self, tracks: Sequence[Track], speed: float, *, trials_at_once: int = 1) -> None:
        self._speed = speed
        self._at_once = trials_at_once
        self._tracks = {(track.survey.name, track.entry.label): track for track in tracks}
        expected = [self.seconds(job) for track in tracks if not track.refusal for job in track.expected()]
        self.trials = len(expected)
        """Trials there will be."""
        self.ended = 0
        """Trials that have ended."""
        self._noted: set[str] = set()
        self._dropped: set[str] = set()
        self._expected = sum(expected)
        self._ended_estimate = 0.0
        self._timed_estimate = 0.0
        self._timed = 0.0

    def seconds(self, job: Job) -> float:
        """Return the estimated time of a trial, before anything was measured."""
        cost = self._tracks[job.base, job.entry].cost(job)
        return (cost.seconds or 0.0) + cost.multiplications / self._speed

    def note(self, job: Job, trial: Trial) -> None:
        """Take in a trial that has ended, once."""
        if trial.id in self._noted:
            return
        self._noted.add(trial.id)
        estimate = self.seconds(job)
        self.ended += 1
        self._ended_estimate += estimate
        if trial.status == "done" and trial.wall_seconds is not None:
            self._timed_estimate += estimate
            self._timed += trial.wall_seconds

    def drop(self, jobs: Sequence[Job]) -> None:
        """Leave trials out of account that will not run after all, each once."""
        absent = [job for job in jobs if job.id not in self._dropped]
        self._dropped |= {job.id for job in absent}
        self.trials -= len(absent)
        self._expected -= sum(map(self.seconds, absent))

    @property
    def seconds_left(self) -> float:
        """Time that the rest will take, trials that run now counted whole."""
        return self.seconds_left_while({})

    def seconds_left_while(self, running: Mapping[str, tuple[Job, float]]) -> float:
        """Return the time that the rest will take.

        Args:
            running: trials that run now, by id, with the share of their training that is done.
        """
        pace = self._timed / self._timed_estimate if self._timed_estimate else 1.0
        begun = sum(self.seconds(job) * share for job, share in running.values() if job.id not in self._noted)
        return max(0.0, self._expected - self._ended_estimate - begun) * pace / self._at_once
