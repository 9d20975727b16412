"""Trials that are run together: in one process and, where there are several, in one pass over their base.

Trials of a search share a pass where each has the result that it would have alone, and where what they need together is
sure to fit. Final trials never do: their time, speed and memory are compared, and those of a pass are nobody's own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from torch import nn

from petune import methods
from petune.backbone.precision import pick_device
from petune.comparison import machine
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.errors import ConfigError
from petune.training.recipe import Recipe
from petune.training.sharing import require_one_base

_PART_OF_MEMORY = 0.5
"""How much of the machine's memory a shared pass may take by its estimate, which may be off by as much."""


@final
@dataclass(frozen=True, slots=True)
class Unit:
    """Trials on one base that one process runs together."""

    jobs: tuple[Job, ...]
    """The trials, one at least; several share a pass over their base."""

    @property
    def base(self) -> str:
        """The base model of all of them."""
        return self.jobs[0].base


def units_of(jobs: Iterable[Job], tracks: Sequence[Track], *, share: bool) -> list[Unit]:
    """Return the trials as units, in the order of the first trial of each.

    Those that share a pass are of one entry: the adapters of one method are computed in one piece.

    Args:
        jobs: trials that do not depend on one another.
        tracks: what they belong to.
        share: whether trials may share a pass at all.
    """
    by_name = {(track.survey.name, track.entry.label): track for track in tracks}
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in jobs:
        track = by_name[job.base, job.entry]
        able = share and _may_share(job, track)
        key = (job.base, job.entry, job.rung, job.seed, None if able else job.id)
        groups.setdefault(key, []).append(job)
    return [unit for group in groups.values() for unit in _parts(group, by_name[group[0].base, group[0].entry])]


def _may_share(job: Job, track: Track) -> bool:
    """Say whether a trial has the same result in a pass that it shares, and figures of its own that matter.

    A number of seconds becomes steps by how fast a method trains alone; dropout draws random numbers for all rows of a
    batch at once.
    """
    if job.stage != "search" or job.budget.unit == "seconds" or not methods.get(job.method).trains:
        return False
    settings = _recipe(job).method.model_dump()
    drops_out = any("dropout" in name and value for name, value in settings.items())
    return not drops_out and not draws_random_numbers(track.survey.model)


def draws_random_numbers(model: nn.Module) -> bool:
    """Say whether a model draws random numbers in training: whether a dropout or a layer drop of it is above 0."""
    return any(
        (isinstance(module, nn.Dropout) and module.p > 0)
        or any("drop" in name and isinstance(value, float) and value > 0 for name, value in vars(module).items())
        for module in model.modules()
    )


def _parts(jobs: Sequence[Job], track: Track) -> list[Unit]:
    """Return trials that may share a pass as units, each as large as its base and the machine's memory allow."""
    parts: list[list[Job]] = []
    for job in jobs:
        if parts and _go_together([*parts[-1], job]) and _fit([*parts[-1], job], track):
            parts[-1].append(job)
        else:
            parts.append([job])
    return [Unit(tuple(part)) for part in parts]


def _go_together(jobs: Sequence[Job]) -> bool:
    try:
        require_one_base({job.id: _recipe(job) for job in jobs}, loaded=True)
    except ConfigError:
        return False
    return True


def memory_of(jobs: Sequence[Job], track: Track) -> int:
    """Return an estimate of the most bytes that trials hold in one pass: the base once, the rest for each."""
    costs = [track.cost(job) for job in jobs]
    return costs[0].memory + sum(cost.memory - cost.weights for cost in costs[1:])


def _fit(jobs: Sequence[Job], track: Track) -> bool:
    """Say whether trials are sure to fit into memory together."""
    there = machine.memory(pick_device(str(jobs[0].keys["device"])))
    return memory_of(jobs, track) <= _PART_OF_MEMORY * there


def _recipe(job: Job) -> Recipe:
    return Recipe.parse({**job.keys, "output_dir": job.id})
