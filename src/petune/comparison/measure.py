"""One trial, from its values to its record."""

import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from petune import api, methods
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.comparison.bench import Bench, measured_skills, writing_speed
from petune.comparison.budget import steps_for_tokens
from petune.comparison.curve import Curve
from petune.comparison.job import Job
from petune.comparison.plan import SCHEDULE_KEYS, schedule_keys
from petune.comparison.record import ExampleAnswer, Trial
from petune.comparison.scores import row_scores, together
from petune.data.encoding import kept_whole
from petune.data.examples import Example, ExampleSet
from petune.errors import CheckpointError, ConfigError, DataError, MetricError, PetuneError
from petune.evaluation.evaluate import Evaluation
from petune.evaluation.metrics import resolve_metric
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.predict import Prediction
from petune.tasks.registry import get as get_task
from petune.training import checkpoints
from petune.training.events import Listener
from petune.training.memory import reset_peak
from petune.training.options import TrainingOptions
from petune.training.recipe import FILE_NAME, Recipe
from petune.training.result import TrainingResult
from petune.training.run import train
from petune.training.trunk_cache import OFF

logger = logging.getLogger("petune")

ADAPTER = "adapter"
"""Name of the folder of a trial's adapter, inside the trial's own."""

_CALIBRATION_STEPS = 4


def perform(
    job: Job,
    bench: Bench,
    folder: Path,
    *,
    lengths: Sequence[int],
    evaluations: int,
    keep_adapter: bool,
    trunk: Path,
    listeners: Sequence[Listener] = (),
) -> Trial:
    """Train and measure one trial; its adapter is detached at the end.

    Args:
        job: the trial.
        bench: its base.
        folder: the trial's own; a run that was stopped there goes on.
        lengths: tokens of the training rows, to turn seconds into steps.
        evaluations: points of the learning curve, where the budget is seconds.
        keep_adapter: whether the adapter stays in the folder.
        trunk: where trunk caches of the comparison lie.
        listeners: told of every step.

    Raises:
        PetuneError: the trial cannot be run, diverged, or was interrupted (then it can go on).
    """
    began = time.perf_counter()
    output = folder / ADAPTER
    decided = _decided(job, bench.base, lengths, evaluations, output)
    recipe = training_of(job, output, trunk=trunk, **decided)
    whole = job.measures.test is not None
    before = bench.skills() if job.measures.forgetting else None
    curve = Curve(recipe.run.logging_steps, output)
    reset_peak(bench.base.device)
    result = _trained(recipe, bench.base, [curve, *listeners])
    try:
        found = {
            **figures_of_training(result, curve, bench.base, output),
            "development": measured(job, result.model, str(job.keys["eval_data"]))[0],
            "command": job.command(**decided),
        }
        if whole:
            found |= _of_test(job, result.model)
            after = measured_skills(result.model) if before is not None else None
            found["forgetting"] = before.after(after) if before is not None and after is not None else None
            if job.measures.generation_speed:
                found["generation_tokens_per_second"] = writing_speed(result.model)
    finally:
        for name in tuple(result.model.adapters):
            result.model.detach(name)
    if adapted := found.get("generation_tokens_per_second"):
        # Right after the other measurement, while the machine is as busy as it was.
        found["generation_latency_ratio"] = _ratio(bench.writing_speed(), adapted)
    if whole and keep_adapter:
        _remove_checkpoints(output)
        found["adapter"] = f"{folder.parent.name}/{folder.name}/{ADAPTER}"
    else:
        shutil.rmtree(output)
    return job.record("done", wall_seconds=time.perf_counter() - began, **found)


def training_of(job: Job, output: Path, *, trunk: Path, **decided: Any) -> Recipe:
    """Return the training of a trial.

    Its checkpoints are those of its evaluations: one at each epoch's end besides takes full fine-tuning seconds.

    Args:
        job: the trial.
        output: the training's folder.
        trunk: where trunk caches of the comparison lie.
        decided: keys that could not be known before.

    Raises:
        ConfigError: a key cannot be used.
    """
    keys = {**job.keys, **decided}
    saved = {"save_steps": keys.get("max_steps")}
    return Recipe.parse({**keys, **saved, **_trunk_keys(job, trunk), "output_dir": str(output)})


def _trunk_keys(job: Job, trunk: Path) -> dict[str, Any]:
    """Return the keys that say where a trunk cache lies: one for all trials of the search, one for each other trial.

    A final trial is timed, so it computes what its own first epoch needs, as the training it stands for does.
    """
    if job.keys.get("trunk_cache", OFF) == OFF:
        return {}
    searches = job.stage == "search"
    return {"trunk_cache_dir": str(trunk if searches else trunk / job.id), "keep_trunk_cache": searches}


def _decided(job: Job, base: Base, lengths: Sequence[int], evaluations: int, output: Path) -> dict[str, Any]:
    """Return the keys that could not be known before: how many steps a number of seconds is.

    A run that was stopped goes on with those that it began with: measured again, a number of seconds is other steps.
    """
    if job.budget.unit != "seconds" or not methods.get(job.method).trains:
        return {}
    if begun := _begun(output):
        return begun
    options = TrainingOptions.model_validate(
        {key: value for key, value in job.keys.items() if key in TrainingOptions.model_fields}
    )
    speed = _tokens_per_second(job, base)
    steps = steps_for_tokens(job.budget.amount * speed, lengths, options)
    if steps < 1:
        raise ConfigError(
            f"a budget of {job.budget.amount:g} seconds is too small for one step: {job.method} trains on"
            f" {speed:,.0f} tokens a second here; give more"
        )
    return schedule_keys(steps, evaluations if job.stage == "final" else 1)


def _begun(output: Path) -> dict[str, Any]:
    """Return the schedule of the run in ``output`` that can go on; empty where there is none."""
    if not checkpoints.steps_in(output):
        return {}
    try:
        run = Recipe.read(output / FILE_NAME).run
    except PetuneError:
        return {}  # damaged by what stopped it
    return {key: getattr(run, key) for key in SCHEDULE_KEYS}


def _tokens_per_second(job: Job, base: Base) -> float:
    """Return how fast a method trains here, the first step, which warms up, left out."""
    with tempfile.TemporaryDirectory() as folder:
        curve = Curve(1, Path(folder))
        keys = {**job.keys, "eval_data": None, "output_dir": f"{folder}/run", "max_steps": _CALIBRATION_STEPS}
        result = train({**keys, "logging_steps": 1}, base=base, listeners=[curve])
        for name in tuple(result.model.adapters):
            result.model.detach(name)
    first, last = curve.points[0], curve.points[-1]
    return (last.tokens - first.tokens) / (last.seconds - first.seconds)


def _trained(recipe: Recipe, base: Base, listeners: Sequence[Listener]) -> TrainingResult:
    """Train, from the checkpoint of a run that was stopped where there is one."""
    output = Path(recipe.run.output_dir)
    if checkpoints.steps_in(output):
        try:
            return train(recipe, base=base, resume=True, listeners=listeners)
        except CheckpointError:
            pass  # damaged by what stopped it: the run begins anew
    if output.exists():
        shutil.rmtree(output)
    return train(recipe, base=base, listeners=listeners)


def figures_of_training(result: TrainingResult, curve: Curve, base: Base, output: Path) -> dict[str, Any]:
    """Return what a record tells of a training; its adapter is still attached.

    Args:
        result: the training.
        curve: its course.
        base: its base.
        output: its folder.
    """
    learned = result.trained_parameters
    best = curve.best
    return {
        "trainable_parameters": learned,
        "trainable_share": learned / sum(p.numel() for p in base.model.parameters()),
        "bytes_stored": sum(path.stat().st_size for path in output.glob("*.safetensors")) if learned else 0,
        "peak_memory_bytes": result.peak_memory,
        "curve": curve.points,
        "best_step": None if best is None else best.step,
        "best_eval_loss": None if best is None else best.eval_loss,
        "eval_loss": curve.last_eval_loss,
        "train_loss": curve.train_loss,
        "seconds": curve.seconds,
        "tokens_per_second": curve.tokens / curve.seconds if curve.seconds else None,
        "can_generate": bool(base.model.can_generate()),
    }


def _options(job: Job) -> dict[str, Any]:
    """Return the settings of reading that an adapter does not remember."""
    return {name: job.keys[name] for name in ("train_on", "max_length", "overlong")}


def measured(
    job: Job, model: AdaptedModel, data: str, further: Sequence[str] = ()
) -> tuple[dict[str, float], Evaluation]:
    """Return the metrics on a part, and the measurement by the metric that decides.

    Args:
        job: the trial.
        model: what it trained.
        data: file of the part's rows.
        further: metrics to measure beside the one that decides.

    Raises:
        MetricError: the user's own function does not return what decides.
    """
    asked = {"max_new_tokens": job.measures.max_new_tokens, **_options(job)}
    names, apart = together(job.measures.metric, further)
    found = api.evaluate(model, data, metrics=names, **asked)
    if job.measures.name not in found.metrics:
        raise MetricError(
            f"'{job.measures.name}' decides, and {job.measures.metric} does not return it; measured are"
            f" {', '.join(found.metrics)}: return a number, or a dict with the key '{job.measures.name}'"
        )
    more = api.evaluate(model, data, metrics=apart, **asked).metrics if apart else {}
    return {**found.metrics, **more}, found


def _of_test(job: Job, model: AdaptedModel) -> dict[str, Any]:
    """Return quality on the test split, the score of each row, and some answers."""
    data = str(job.measures.test)
    examples, encoded = api.read_rows(model, data, **_options(job))
    values, found = measured(job, model, data, job.measures.metrics)
    answered = {answer.origin: answer for answer in found.predictions}
    whole = [example for example in kept_whole(examples, encoded) if not answered or example.origin in answered]
    shown = ExampleSet(whole[: job.measures.examples], source=examples.source, layout=examples.layout)
    answers = [answered[e.origin] for e in shown] if answered else _answers(job, model, shown)
    rows = {example.origin: number for number, example in enumerate(examples, 1)}
    return {
        "test": values,
        "scores": row_scores(examples, resolve_metric(job.measures.metric), found),
        "examples": [_example(e, rows[e.origin], answer) for e, answer in zip(shown, answers, strict=bool(answers))],
    }


def _answers(job: Job, model: AdaptedModel, examples: ExampleSet) -> Sequence[Prediction]:
    """Return what the model writes to rows; nothing where one of them leaves no room for an answer."""
    generation = GenerationOptions(max_new_tokens=job.measures.max_new_tokens)
    task = get_task(model.base.task)
    try:
        return list(task.predict(model, examples, EvaluationOptions(), generation=generation)) if examples else ()
    except DataError as error:
        logger.warning("no answers are shown: %s", error)
        return ()


def _example(example: Example, row: int, answer: Prediction) -> ExampleAnswer:
    given, right = answer.prediction, answer.reference
    # A head marks one answer to a question, of which several may be right; tags are all of one answer.
    several = list(right) if isinstance(right, tuple) and isinstance(given, str) else []
    return ExampleAnswer(
        prompt=example.prompt,
        reference=several[0] if several else _text(right),
        other_references=several[1:],
        answer=_text(given) or "",
        row=row,
    )


def _text(answer: str | tuple[str, ...] | None) -> str | None:
    return " ".join(answer) if isinstance(answer, tuple) else answer


def _ratio(base: float | None, adapted: float) -> float | None:
    """Return the time of a token as a multiple of the bare base's, from tokens a second."""
    return None if base is None else base / adapted


def _remove_checkpoints(output: Path) -> None:
    for step in checkpoints.steps_in(output):
        shutil.rmtree(output / f"checkpoint-{step}")
