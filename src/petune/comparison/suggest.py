"""Which methods to try on some rows and a base: what fits this machine, what it costs, and what was published of it.

Methods are put in order by a plain rule over facts; nothing is trained, and no weights load:

1. those that fit the memory, then those that may, then those that do not, then those that the base refuses;
2. among these, baselines last: they are what the others are held against;
3. then by what was found in runs like this one, beside full fine-tuning: above it, near it, good but not compared with
   it, nothing known, below it. One finding of "below" outweighs the others;
4. then the fewest bytes stored.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, final

from pydantic import ValidationError

from petune import methods
from petune.backbone.base import load_base_config, meta_model
from petune.backbone.precision import pick_device, pick_dtype
from petune.backbone.quantization import kept_as
from petune.backbone.task_names import TaskName
from petune.backbone.tokenizer import load_tokenizer
from petune.checkpoint.peft import MODEL_LAYOUT
from petune.comparison import machine
from petune.comparison.budget import steps_for
from petune.comparison.command import compare_command, train_command
from petune.comparison.estimate import estimate, speed
from petune.comparison.job import Job, Measures
from petune.comparison.recipe import SUGGEST_KEYS
from petune.comparison.record import Budget
from petune.comparison.survey import SAMPLED, Survey
from petune.data.options import DataOptions
from petune.data.report import DataReport
from petune.errors import ConfigError, nearest
from petune.methods.config import explain
from petune.methods.method import Finding, Paper, Standing
from petune.tasks.inspect import encode_rows
from petune.tasks.rows import read_rows_for
from petune.training.recipe import RunOptions

Fit = Literal["yes", "tight", "no", "refused"]

_FITS: tuple[Fit, ...] = ("yes", "tight", "no", "refused")
_STANDINGS: tuple[Standing | None, ...] = ("above", "near", "works", None, "below")
_COMPARED = 3
_GIB = 2**30


@final
@dataclass(frozen=True, slots=True)
class Suggestion:
    """One method, with its default settings, on the rows and the base asked about."""

    method: str
    baseline: bool
    """Whether it is what others are held against."""
    fits: Fit
    """Whether the machine's memory holds its training; tight where it holds what has to be there, but not the rest."""
    why_not: str | None
    """What stands in the way, or is tight."""
    trainable: int
    """Numbers learned."""
    bytes_stored: int
    """Size on disk of the learned tensors; of full fine-tuning, of the model."""
    seconds: float | None
    """Time of a training, about; None where nothing is trained."""
    memory: int
    """Most bytes held, about."""
    standing: Standing | None
    """Beside full fine-tuning, by the findings; None where there are none."""
    findings: tuple[tuple[Finding, Paper], ...]
    """What was published of it for runs like this one, and where."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        findings = [
            {"says": finding.says, "standing": finding.standing, "paper": asdict(paper)}
            for finding, paper in self.findings
        ]
        plain = ("method", "baseline", "fits", "why_not", "trainable", "bytes_stored", "seconds", "memory", "standing")
        return {**{name: getattr(self, name) for name in plain}, "findings": findings}


@final
@dataclass(frozen=True, slots=True)
class Suggestions:
    """The methods in the order to try them, and what the order rests on."""

    model: str
    task: TaskName
    parameters: int
    """Size of the base."""
    machine: Mapping[str, Any]
    """What it would run on."""
    data: DataReport
    methods: tuple[Suggestion, ...]
    """All methods, the first to try in front."""
    train: str | None
    """The `petune train` line of the first; None where nothing fits."""
    compare: str | None
    """The `petune compare` line of the first few."""

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON types."""
        return {
            "model": self.model,
            "task": self.task,
            "parameters": self.parameters,
            "machine": dict(self.machine),
            "data": self.data.to_dict(),
            "methods": [suggestion.to_dict() for suggestion in self.methods],
            "train": self.train,
            "compare": self.compare,
        }


def suggest(
    data: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "demo",
    trust_remote_code: bool = False,
    measuring: Callable[[str, str, int, int], None] | None = None,
    **options: Any,
) -> Suggestions:
    """Say which methods to try on ``data`` with the base ``model``; nothing is trained, and its weights do not load.

    Args:
        data: a file or a hub data set id.
        model: the base.
        trust_remote_code: let the base's repository run its own code.
        measuring: told of each method before it is measured: its name, the base, its number, how many there are.
        options: keys of a training that its time and memory depend on: those of reading, task, dtype, device,
            quantization, num_train_epochs, per_device_train_batch_size, gradient_accumulation_steps,
            max_tokens_per_batch.

    Raises:
        PetuneError: as a training run before its base loads.
    """
    run = _run_options({**options, "data": os.fspath(data), "model": os.fspath(model)})
    kept = kept_as(run.quantization, run.model)
    reading = DataOptions.model_validate({name: getattr(run, name) for name in DataOptions.model_fields})
    read = read_rows_for(reading, task=run.task, seed=run.seed)
    tokenizer, limit = load_tokenizer(run.model, trust_remote_code=trust_remote_code)
    rows = read.settled(partial(load_base_config, run.model, trust_remote_code=trust_remote_code))
    encoded = encode_rows(rows, tokenizer, model_limit=limit)
    survey = Survey(
        name=run.model,
        task=rows.task,
        labels=rows.labels,
        metric="loss",
        model=meta_model(run.model, task=rows.task.name, labels=rows.labels, trust_remote_code=trust_remote_code),
        train=tuple(row.num_tokens for row in encoded.rows),
        development=(),
        test=(),
        tokenizer=tokenizer,
        rows=tuple(encoded.rows[:SAMPLED]),
        kept=kept,
    )
    given = {name: getattr(run, name) for name in SUGGEST_KEYS}
    found = _in_order(survey, run, given, measuring or (lambda *_: None))
    trusted = " --trust-remote-code" if trust_remote_code else ""
    usable = [suggestion.method for suggestion in found if suggestion.fits in ("yes", "tight")]
    own = [suggestion.method for suggestion in found if suggestion.method in usable and not suggestion.baseline]
    return Suggestions(
        model=run.model,
        task=rows.task.name,
        parameters=survey.parameters,
        machine=machine.facts(run.device),
        data=encoded.report,
        methods=found,
        train=train_command({**given, "method": usable[0]}) + trusted if usable else None,
        compare=_compare_line(own[:_COMPARED], given) + trusted if own else None,
    )


def _run_options(keys: Mapping[str, Any]) -> RunOptions:
    for key in keys:
        if key not in SUGGEST_KEYS:
            raise ConfigError(
                f"'{key}' is no key of petune suggest.{nearest(key, SUGGEST_KEYS)} The keys are"
                f" {', '.join(SUGGEST_KEYS)}"
            )
    try:
        return RunOptions.model_validate(dict(keys))
    except ValidationError as error:
        raise ConfigError(explain(error, RunOptions)) from error


def _in_order(
    survey: Survey, run: RunOptions, given: Mapping[str, Any], measuring: Callable[[str, str, int, int], None]
) -> tuple[Suggestion, ...]:
    device = pick_device(run.device)
    there = machine.memory(device)
    per_second = speed(machine.multiplications_per_second(device, pick_dtype(run.dtype, device)))
    steps = steps_for("epochs", run.num_train_epochs, survey.train, run)
    keys = {**given, "max_steps": steps}
    found, names = [], methods.names()
    for number, name in enumerate(names, start=1):
        measuring(name, survey.name, number, len(names))
        found.append(_suggestion(name, survey, run, keys, there, per_second))
    return tuple(
        sorted(
            found,
            key=lambda one: (_FITS.index(one.fits), one.baseline, _STANDINGS.index(one.standing), one.bytes_stored),
        )
    )


def _suggestion(
    name: str, survey: Survey, run: RunOptions, keys: Mapping[str, Any], there: int, per_second: float
) -> Suggestion:
    method, outlook = methods.get(name), survey.outlook(name, {})
    stored = outlook.stored
    if stored and name in MODEL_LAYOUT:
        stored = survey.parameters * pick_dtype(run.dtype, pick_device(run.device)).itemsize
    job = Job(
        entry=name,
        stage="final",
        rung=None,
        budget=Budget(unit="epochs", amount=run.num_train_epochs),
        settings={},
        keys={**keys, "method": name},
        measures=Measures(metric=survey.metric, max_new_tokens=1),
        rows=(),
    )
    cost = estimate(job, survey, run)
    fits, why_not = _fit(cost.least_memory, cost.memory, there)
    findings = tuple(
        (finding, paper)
        for finding in method.evidence
        if finding.holds(survey.task.name, parameters=survey.parameters, rows=len(survey.train))
        and (paper := finding.paper or method.paper) is not None
    )
    return Suggestion(
        method=name,
        baseline=method.baseline,
        fits="refused" if outlook.refused else fits,
        why_not=outlook.refused or why_not,
        trainable=outlook.trainable,
        bytes_stored=stored,
        seconds=cost.time(per_second) if method.trains else None,
        memory=cost.memory,
        standing=standing([finding for finding, _ in findings]),
        findings=findings,
    )


def standing(findings: Sequence[Finding]) -> Standing | None:
    """Return where findings put a method: "below" if one of them does, else at the best of their places."""
    found = {finding.standing for finding in findings}
    if "below" in found:
        return "below"
    return next((place for place in _STANDINGS if place in found), None)


def _fit(least: int, about: int, there: int) -> tuple[Fit, str | None]:
    if least > there:
        return "no", f"it needs {least / _GIB:,.1f} GiB at the least, and there are {there / _GIB:,.1f} GiB"
    if about > there:
        return "tight", (
            f"it needs about {about / _GIB:,.1f} GiB, and there are {there / _GIB:,.1f} GiB; less with a smaller"
            " --max-tokens-per-batch"
        )
    return "yes", None


def _compare_line(names: Sequence[str], given: Mapping[str, Any]) -> str:
    shared = {key: value for key, value in given.items() if key not in ("model", "num_train_epochs")}
    return compare_command(names, {**shared, "models": [given["model"]], "budget": given["num_train_epochs"]})
