"""A comparison, from recipe to report."""

import json
import os
import shlex
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

from petune import __version__
from petune.backbone.precision import pick_device, pick_dtype
from petune.comparison import machine
from petune.comparison.assignment import Assignments, threads_of
from petune.comparison.command import trusting
from petune.comparison.engines import check_engine, make_engine
from petune.comparison.estimate import speed
from petune.comparison.folder import RECIPE, Folder
from petune.comparison.going_on import (
    DEVELOPMENT,
    TEST,
    TRAIN,
    digests,
    refuse_other_files,
    refuse_other_keys,
    with_former_entries,
)
from petune.comparison.plan import Track
from petune.comparison.recipe import CompareOptions, CompareRecipe
from petune.comparison.record import Comparison, SearchCost, Trial
from petune.comparison.report import write_report
from petune.comparison.split import PartFiles, Parts, split_rows, with_origins
from petune.comparison.study import Study, recalled
from petune.comparison.survey import survey_for_all
from petune.comparison.watching import Progress, Unwatched, Watcher
from petune.errors import DataError, Interrupted
from petune.training.signals import interrupted_by_sigterm


def compare(
    recipe: CompareRecipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    trust_remote_code: bool = False,
    watcher: Watcher | None = None,
) -> Comparison:
    """Compare methods on data: search each one's learning rate, train it with every seed, measure, and report.

    Every trial that has ended is on the disk at once, so a comparison may be stopped at any time.

    Args:
        recipe: a recipe, its keys, or the path of its YAML file.
        resume: go on with the comparison in ``output_dir``; trials that have ended are not run again. Methods, bases
            and seeds are added to those that it has.
        overwrite: replace the comparison that ``output_dir`` holds.
        retry: with ``resume``, run again what failed, ran out of memory or was refused.
        trust_remote_code: let the bases' repositories run their own code.
        watcher: told of every trial.

    Raises:
        PetuneError: see :mod:`petune.errors`; bad input is found before the first base loads. What goes wrong in one
            trial is in its record, and the others go on.
    """
    recipe = _as_recipe(recipe)
    check_engine(recipe.options.engine)
    folder = Folder(Path(recipe.options.output_dir))
    folder.check(resume=resume, overwrite=overwrite)
    parts = split_rows(recipe.options)
    watcher = watcher or Unwatched()
    with folder.held():
        former = None if overwrite else folder.comparison()
        recipe = with_former_entries(recipe, former)
        found, data = _surveyed(recipe, parts, former, folder, trust_remote_code=trust_remote_code)
        _measure(found, watcher)
        tracks = [replace(track, files=PartFiles.within(folder.data)) for track in found]
        assignments = Assignments(tracks, trust_remote_code=trust_remote_code)
        engine = make_engine(recipe.options, assignments, folder, watcher)
        # Nothing is removed or written before all is known that could be refused.
        if overwrite:
            folder.clear()
        facts = {**machine.facts(recipe.options.device), "threads": threads_of(recipe.options)}
        comparison = Comparison(
            recipe=recipe.keys(),
            command=_command(folder, trust_remote_code=trust_remote_code),
            started_from=os.path.relpath(Path.cwd(), folder.path.resolve()),
            trust_remote_code=trust_remote_code,
            created=former.created if former is not None else _now(),
            machine=facts,
            earlier_machines=_others(facts, former) if folder.has_trials else [],
            petune_version=__version__,
            data=data,
            trials=[],
        )
        folder.begin(comparison, recipe.to_yaml())
        parts.write(folder.data)
        progress = Progress(tracks, _speed(recipe), trials_at_once=engine.trials_at_once)
        if former is not None:
            recalled(folder, tracks, progress, retry=retry)
        study = Study(folder, engine, watcher, progress, retry=retry, share=recipe.options.share_passes)
        watcher.planned(tracks, study.progress)
        try:
            with closing(engine), interrupted_by_sigterm():
                study.run(tracks)
            folder.finish()
        except (KeyboardInterrupt, Interrupted) as error:
            raise _stopped(error, study, folder, trust_remote_code=trust_remote_code) from error
        finally:
            comparison = _with_trials(comparison, list(study.trials.values()), finished=study.complete)
            try:
                watcher.closed()
            finally:
                write_report(comparison, folder.path)
    return comparison


def _others(facts: Mapping[str, Any], former: Comparison | None) -> list[dict[str, Any]]:
    """Return the facts of the machines of former calls that times are not those of this one, each once."""
    before = [] if former is None else [*former.earlier_machines, former.machine]
    found = {json.dumps(machine.of_times(own), sort_keys=True, default=str): own for own in before}
    return [own for own in found.values() if machine.of_times(own) != machine.of_times(facts)]


@final
@dataclass(frozen=True, slots=True)
class Planned:
    """What a comparison would run."""

    tracks: tuple[Track, ...]
    """Each method on each base."""

    progress: Progress
    """Trials and time, those that have ended noted already."""

    options: CompareOptions
    """What was asked for."""


def plan(
    recipe: CompareRecipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    retry: bool = False,
    trust_remote_code: bool = False,
    watcher: Watcher | None = None,
) -> Planned:
    """Return what :func:`compare` would run with the same arguments, with estimates; run nothing and write nothing.

    Args:
        recipe: a recipe, its keys, or the path of its YAML file.
        resume: as if the comparison in ``output_dir`` went on.
        overwrite: as if the comparison in ``output_dir`` were replaced.
        retry: as if, with ``resume``, what failed, ran out of memory or was refused ran again.
        trust_remote_code: let the bases' repositories run their own code.
        watcher: told of what is measured for the estimates.

    Raises:
        PetuneError: as :func:`compare` does before its first trial.
    """
    recipe = _as_recipe(recipe)
    check_engine(recipe.options.engine)
    folder = Folder(Path(recipe.options.output_dir))
    folder.check(resume=resume, overwrite=overwrite)
    former = folder.comparison() if resume else None
    recipe = with_former_entries(recipe, former)
    tracks, _ = _surveyed(recipe, split_rows(recipe.options), former, folder, trust_remote_code=trust_remote_code)
    watcher = watcher or Unwatched()
    _measure(tracks, watcher)
    watcher.closed()
    progress = Progress(tracks, _speed(recipe))
    if resume:
        recalled(folder, tracks, progress, retry=retry)
    return Planned(tuple(tracks), progress, recipe.options)


def _as_recipe(recipe: CompareRecipe | Mapping[str, Any] | str | os.PathLike[str]) -> CompareRecipe:
    if isinstance(recipe, CompareRecipe):
        return recipe
    return CompareRecipe.parse(recipe) if isinstance(recipe, Mapping) else CompareRecipe.read(recipe)


def _surveyed(
    recipe: CompareRecipe, parts: Parts, former: Comparison | None, folder: Folder, *, trust_remote_code: bool
) -> tuple[list[Track], dict[str, str]]:
    """Return what would run, on rows in a folder that is gone by then, and the digests of what it rests on."""
    refuse_other_keys(recipe, former, folder)
    with tempfile.TemporaryDirectory() as scratch:
        files = parts.write(Path(scratch))
        data = digests(recipe, parts, files)
        refuse_other_files(former, data, folder)
        try:
            return _tracks(recipe, files, data, trust_remote_code=trust_remote_code), data
        except DataError as error:
            raise DataError(with_origins(str(error), parts, files, recipe.options)) from error


def _tracks(
    recipe: CompareRecipe, files: PartFiles, data: Mapping[str, str], *, trust_remote_code: bool
) -> list[Track]:
    entries = recipe.entries()
    candidates = [(entry.method, own) for entry in entries for own in entry.candidates(recipe.options.rate_factors)]
    surveys = [
        survey_for_all(name, recipe.options, files, candidates, trust_remote_code=trust_remote_code)
        for name in recipe.options.models
    ]
    rows = (data[TRAIN], data[DEVELOPMENT], data[TEST])
    tracks = [Track(known, entry, recipe, files, rows) for known in surveys for entry in entries]
    for track in tracks:
        track.check()
    return tracks


def _measure(tracks: Sequence[Track], watcher: Watcher) -> None:
    """Measure what each method costs, which all estimates rest on; the watcher is closed where that is broken off."""
    usable = [track for track in tracks if not track.refusal]
    try:
        for number, track in enumerate(usable, start=1):
            watcher.measuring(track, number, len(usable))
            for job in track.expected():
                track.cost(job)
    except BaseException:
        watcher.closed()
        raise


def _speed(recipe: CompareRecipe) -> float:
    device = pick_device(recipe.options.device)
    return speed(machine.multiplications_per_second(device, pick_dtype(recipe.options.dtype, device)))


def _command(folder: Folder, *, trust_remote_code: bool) -> str:
    words = ["petune", "compare", str(folder.path / RECIPE), "--output-dir", f"{folder.path}-again"]
    return trusting(shlex.join(words), trust_remote_code)


def _with_trials(comparison: Comparison, trials: list[Trial], *, finished: bool) -> Comparison:
    search = [trial for trial in trials if trial.stage == "search"]
    return comparison.model_copy(
        update={
            "trials": trials,
            "finished": _now() if finished else None,
            "search_cost": SearchCost(
                trials=len(search),
                seconds=sum(trial.wall_seconds or 0.0 for trial in search),
                tokens=sum(trial.curve[-1].tokens for trial in search if trial.curve),
            ),
        }
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stopped(error: BaseException, study: Study, folder: Folder, *, trust_remote_code: bool) -> Interrupted:
    number = error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT
    line = trusting(shlex.join(["petune", "compare", "--resume", "--output-dir", str(folder.path)]), trust_remote_code)
    return Interrupted(
        f"stopped after {study.progress.ended} of {study.progress.trials} trials, which are kept in {folder.path}. Go"
        f" on with: {line}",
        number,
    )
