"""The trials of a comparison, from the first round of each search to the final ones."""

from collections.abc import Sequence
from contextlib import closing
from typing import final

from petune.comparison.engine import Engine
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.comparison.search import best
from petune.comparison.unit import units_of
from petune.comparison.watching import Progress, Unwatched, Watcher
from petune.evaluation.metrics import measured_name

_AGAIN = ("failed", "out_of_memory", "refused")


@final
class Study:
    """The trials of a comparison: those that have ended, and those that come.

    Args:
        folder: the comparison's.
        engine: where trials run; None to look only at what has ended.
        watcher: told of every trial.
        progress: kept current.
        retry: run again what failed, ran out of memory or was refused.
        share: whether trials of a search may share a pass.

    Attributes:
        trials: the records so far, by id.
        complete: whether no trial is left to run.
    """

    def __init__(
        self,
        folder: Folder,
        engine: Engine | None,
        watcher: Watcher,
        progress: Progress,
        *,
        retry: bool,
        share: bool,
    ) -> None:
        self._folder = folder
        self._engine = engine
        self._watcher = watcher
        self._retry = retry
        self._share = share
        self.progress = progress
        self.trials: dict[str, Trial] = {}
        self.complete = False

    def run(self, tracks: Sequence[Track]) -> None:
        """Run every track, those of a base one behind the other.

        Where that is broken off, what had ended in an earlier call is taken in all the same.
        """
        assert self._engine is not None
        try:
            for name in dict.fromkeys(track.survey.name for track in tracks):
                of_base = [track for track in tracks if track.survey.name == name]
                for start in range(0, len(of_base), self._engine.tracks_at_once):
                    self._climb(of_base[start : start + self._engine.tracks_at_once])
        except BaseException:
            self.trials = {**recalled(self._folder, tracks, self.progress, retry=False), **self.trials}
            raise
        self.complete = True

    def recall(self, tracks: Sequence[Track]) -> None:
        """Take in what has ended in an earlier call, as far as the way of each track is known from it."""
        for track in tracks:
            self._climb([track])

    def _climb(self, group: Sequence[Track]) -> None:
        """Search the settings of each track, round by round, and run its final trials."""
        left = {id(track): list(track.candidates) for track in group}
        reasons: dict[int, str] = {id(track): track.refusal for track in group if track.refusal}
        certain = {id(track) for track in group}
        for number in range(max(len(track.rungs) for track in group)):
            taking_part = [t for t in group if number < len(t.rungs) and id(t) not in reasons]
            jobs = {id(t): t.search_jobs(number, left[id(t)]) for t in taking_part}
            self._settle([job for own in jobs.values() for job in own], taking_part)
            for track in taking_part:
                keep = track.rungs[number + 1].entering if number + 1 < len(track.rungs) else 1
                ranked = track.rivals(number, left[id(track)]) + jobs[id(track)]
                ended = [self.trials[job.id] for job in ranked if job.id in self.trials]
                left[id(track)] = best(ended, keep)
                if len(ended) < len(ranked):
                    certain.discard(id(track))  # only known in part, as an earlier call left it
                if id(track) in certain:
                    self._drop_absent(track, number + 1, len(left[id(track)]))
                if not left[id(track)]:
                    reasons[id(track)] = _why_none(track, ended)
        for track in group:
            if id(track) in reasons:
                self._give_up(track, reasons[id(track)])
        found = [track for track in group if id(track) not in reasons]
        self._settle([job for track in found for job in track.final_jobs(left[id(track)][0])], found)

    def _settle(self, jobs: Sequence[Job], tracks: Sequence[Track]) -> None:
        """See that each trial has ended: in an earlier call, or now."""
        missing = []
        for job in jobs:
            trial = self._folder.trial(job.id)
            if trial is None or (self._retry and trial.status in _AGAIN):
                missing.append(job)
            else:
                self._take(job, trial, reused=True)
        if self._engine is None:
            return
        by_id = {job.id: job for job in missing}
        # Closed at once where it is left early: a generator that garbage collection closes comes upon adapters that are
        # unplugged already.
        with closing(self._engine.run(units_of(missing, tracks, share=self._share))) as ended:
            for trial in ended:
                self._folder.save(trial)
                self._take(by_id[trial.id], trial, reused=False)

    def _drop_absent(self, track: Track, number: int, left: int) -> None:
        """Leave trials out of account that no candidate is left for: of a round, or all where none is left."""
        for later, rung in enumerate(track.rungs[number : None if left == 0 else number + 1], number):
            self.progress.drop(track.search_jobs(later, track.candidates[: rung.entering - left]))
        if left == 0:
            self.progress.drop(track.final_jobs(track.candidates[0]))

    def _give_up(self, track: Track, reason: str) -> None:
        """Record a track that never comes to its final trials."""
        job = track.final_jobs(track.candidates[0])[0].model_copy(update={"settings": track.entry.settings})
        if self._engine is None:
            recorded = self._folder.trial(job.id)
            if recorded is not None:
                self.trials[recorded.id] = recorded
            return
        trial = job.record("refused" if track.refusal else "failed", reason=reason)
        self._folder.save(trial)
        self.trials[trial.id] = trial
        self._watcher.ended(job, trial, reused=False)

    def _take(self, job: Job, trial: Trial, *, reused: bool) -> None:
        self.trials[trial.id] = trial
        self.progress.note(job, trial)
        self._watcher.ended(job, trial, reused=reused)


def recalled(folder: Folder, tracks: Sequence[Track], progress: Progress, *, retry: bool) -> dict[str, Trial]:
    """Return what has ended in earlier calls, by id, as far as the way of each track is known; ``progress`` notes it.

    Args:
        folder: the comparison's.
        tracks: what belongs to it.
        progress: kept current.
        retry: leave out what failed, ran out of memory or was refused.
    """
    study = Study(folder, None, Unwatched(), progress, retry=retry, share=False)
    study.recall(tracks)
    return study.trials


def _why_none(track: Track, ended: Sequence[Trial]) -> str:
    """Return why no trial of a round can go on."""
    said = next((trial.reason for trial in ended if trial.reason), None)
    if said is not None:
        return f"no trial of the search ended well; the first: {said}"
    name = measured_name(track.survey.metric)
    return (
        f"the {name} of the development rows is not a number in any trial of the search: it cannot choose; let another"
        " metric decide, or give more rows"
    )
