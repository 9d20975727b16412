"""A unit of trials as plain values: all that the process which runs it has to know."""

from collections.abc import Sequence
from typing import final

import torch
from pydantic import BaseModel, ConfigDict

from petune.backbone.task_names import TaskName
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.recipe import CompareOptions
from petune.comparison.unit import Unit

_PLAIN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


@final
class Order(BaseModel):
    """One trial, and what was found out before it."""

    model_config = _PLAIN

    job: Job
    """The trial."""

    refused: str | None
    """Why it cannot work; None where it can."""

    least_memory: int
    """Bytes that it cannot do without."""


@final
class Assignment(BaseModel):
    """A unit of work."""

    model_config = _PLAIN

    orders: tuple[Order, ...]
    """The trials."""

    task: TaskName
    """What the base is trained for."""

    labels: tuple[str, ...]
    """The classes of its head; empty where it has none."""

    has_head: bool
    """Whether it has a head for its task, which may start at random."""

    lengths: tuple[int, ...]
    """Tokens of each training row."""

    evaluations: int
    """Points of a final trial's learning curve."""

    keep_adapters: bool
    """Whether the adapters of final trials stay."""

    threads: int
    """Threads that compute them: the last digit of a sum depends on how many share it."""

    trust_remote_code: bool
    """Let a base's repository run its own code."""


def threads_of(options: CompareOptions) -> int:
    """Return the threads of each trial, the same whichever engine runs it."""
    return options.cpus_per_trial or torch.get_num_threads()


@final
class Assignments:
    """Makes assignments of jobs.

    Args:
        tracks: what will run.
        trust_remote_code: let a base's repository run its own code.
    """

    def __init__(self, tracks: Sequence[Track], *, trust_remote_code: bool = False) -> None:
        self._tracks = {(track.survey.name, track.entry.label): track for track in tracks}
        self._trust = trust_remote_code

    def of(self, unit: Unit) -> Assignment:
        """Return the assignment of a unit."""
        track = self._tracks[unit.base, unit.jobs[0].entry]
        options = track.recipe.options
        return Assignment(
            orders=tuple(map(self._order, unit.jobs)),
            task=track.survey.task.name,
            labels=track.survey.labels,
            has_head=track.survey.has_head,
            lengths=track.survey.train,
            evaluations=options.evaluations,
            keep_adapters=options.keep_adapters,
            threads=threads_of(options),
            trust_remote_code=self._trust,
        )

    def _order(self, job: Job) -> Order:
        track = self._tracks[job.base, job.entry]
        refused = track.survey.outlook(job.method, job.settings).refused
        return Order(job=job, refused=refused, least_memory=0 if refused else track.cost(job).least_memory)
