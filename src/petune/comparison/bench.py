"""A loaded base, and what it does without an adapter: what every trial on it starts from and is held against."""

import gc
import logging
from dataclasses import dataclass, field
from typing import final

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base, load_base
from petune.backbone.vocabulary import read_tokens
from petune.comparison import neutral
from petune.comparison.assignment import Assignment
from petune.comparison.forgetting import Skills, skills
from petune.comparison.job import Job
from petune.errors import DataError
from petune.evaluation.runner import Runner
from petune.evaluation.speed import tokens_per_second

logger = logging.getLogger("petune")


@final
@dataclass(slots=True)
class Bench:
    """One base, loaded for the trials on it."""

    base: Base
    _skills: list[Skills | None] = field(default_factory=list)

    def skills(self) -> Skills | None:
        """Return what the bare base does with neutral texts; measured once. None where it is no language model."""
        if not self._skills:
            self._skills.append(measured_skills(AdaptedModel(self.base)))
        return self._skills[0]

    def writing_speed(self) -> float | None:
        """Return the tokens a second of the bare base, measured now; None where it writes no text."""
        return writing_speed(AdaptedModel(self.base))


def measured_skills(model: AdaptedModel) -> Skills | None:
    """Return what a model does with neutral texts; None where it is no causal language model, or they do not fit."""
    if model.base.task != "causal_lm":
        return None
    try:
        return skills(model)
    except DataError as error:
        logger.warning("forgetting is not measured on %s: %s", model.base.name, error)
        return None


def writing_speed(model: Runner) -> float | None:
    """Return the tokens a second that a model writes; None where it writes no text, or has no room for any."""
    if not model.model.can_generate():
        return None
    try:
        return tokens_per_second(model, [text[:40] for text in neutral.TEXTS[:2]])
    except DataError:
        return None


@final
class Benches:
    """Loads each base when the first trial needs it, and holds one at a time."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._bench: Bench | None = None

    def for_job(self, job: Job, assignment: Assignment) -> Bench:
        """Return the base of a trial as its weights are, a random head of the trial's own seed included.

        Raises:
            PetuneError: the base cannot be loaded.
        """
        key = (job.base, assignment.task, job.seed if assignment.has_head else None)
        # Tokens that a trial has added to the base stay; the next one may start there if it adds the same.
        if self._bench is None or key != self._key or self._bench.base.new_tokens not in ((), _new_tokens(job)):
            self.release()
            self._bench = Bench(
                load_base(
                    job.base,
                    task=assignment.task,
                    labels=assignment.labels,
                    seed=job.seed,
                    dtype=str(job.keys["dtype"]),
                    device=str(job.keys["device"]),
                    trust_remote_code=assignment.trust_remote_code,
                    quantization=job.keys["quantization"],
                )
            )
            self._key = key
        return self._bench

    def release(self) -> None:
        """Let go of the base that is held."""
        if self._bench is not None:
            self._bench = None
            gc.collect()


def _new_tokens(job: Job) -> tuple[str, ...]:
    """Return the tokens that a trial adds to its base."""
    return read_tokens(job.keys.get("new_tokens", ())) if methods.get(job.method).trains else ()
