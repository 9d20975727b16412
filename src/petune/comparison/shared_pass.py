"""Several trials of a search in one pass over their base."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from petune.comparison.bench import Bench
from petune.comparison.curve import Curve
from petune.comparison.ending import ended_with
from petune.comparison.job import Job
from petune.comparison.measure import ADAPTER, figures_of_training, measured, training_of
from petune.comparison.record import Trial
from petune.errors import CheckpointError
from petune.training import checkpoints
from petune.training.events import Listener
from petune.training.recipe import Recipe
from petune.training.result import Outcome
from petune.training.run_many import train_many


def perform_together(
    jobs: Sequence[Job],
    bench: Bench,
    folder_of: Callable[[str], Path],
    *,
    trunk: Path,
    listeners: Mapping[str, Sequence[Listener]],
) -> Iterator[tuple[Job, Trial]]:
    """Train trials of a search in one pass, measure each, and yield its record; their adapters are detached.

    The time of a trial is its part of the pass by the tokens that it trained on, and the time of measuring it. Memory
    and speed are the pass's and nobody's own, and are left out.

    Args:
        jobs: the trials, two at least.
        bench: their base.
        folder_of: the folder of a trial, by its id; a pass that was stopped goes on there.
        trunk: where trunk caches of the comparison lie.
        listeners: told of every step, by the id of the trial.

    Raises:
        PetuneError: the pass cannot begin, or was interrupted (then it can go on).
    """
    began = time.perf_counter()
    folders = {job.id: folder_of(job.id) / ADAPTER for job in jobs}
    recipes = [training_of(job, folders[job.id], trunk=trunk) for job in jobs]
    curves = {
        job.id: Curve(recipe.run.logging_steps, folders[job.id]) for job, recipe in zip(jobs, recipes, strict=True)
    }
    outcomes = _trained(recipes, bench, [(curves[job.id], *listeners[job.id]) for job in jobs])
    spent = time.perf_counter() - began
    seconds = sum(curve.seconds for curve in curves.values())
    model = next((outcome.result.model for outcome in outcomes if outcome.result is not None), None)
    try:
        for job, outcome in zip(jobs, outcomes, strict=True):
            began = time.perf_counter()
            curve = curves[job.id]
            part = curve.seconds / seconds * spent if seconds else spent / len(jobs)
            if outcome.result is None:
                assert outcome.error is not None
                ended = ended_with(job, outcome.error, seconds=part)
                yield job, ended.model_copy(update={"trials_in_pass": len(jobs)})
                continue
            outcome.result.model.activate(outcome.name)
            found = figures_of_training(outcome.result, curve, bench.base, folders[job.id])
            found |= {"development": measured(job, outcome.result.model, str(job.keys["eval_data"]))[0]}
            outcome.result.model.detach(outcome.name)
            shutil.rmtree(folders[job.id])
            found |= {
                "peak_memory_bytes": None,
                "tokens_per_second": None,
                "trials_in_pass": len(jobs),
                "wall_seconds": part + time.perf_counter() - began,
            }
            yield job, job.record("done", **found)
    finally:
        if model is not None:
            for name in tuple(model.adapters):
                model.detach(name)


def _trained(recipes: Sequence[Recipe], bench: Bench, listeners: Sequence[Sequence[Listener]]) -> list[Outcome]:
    """Train, from the checkpoints of a pass that was stopped where there are some."""
    folders = [Path(recipe.run.output_dir) for recipe in recipes]
    following = {str(folder): own for folder, own in zip(folders, listeners, strict=True)}
    if any(checkpoints.steps_in(folder) for folder in folders):
        try:
            return train_many(recipes, base=bench.base, resume=True, listeners=following)
        except CheckpointError:
            pass  # damaged by what stopped it: the pass begins anew
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
    return train_many(recipes, base=bench.base, listeners=following)
