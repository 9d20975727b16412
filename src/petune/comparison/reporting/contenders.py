"""The contenders of a comparison: one for each base, entry and settings, with its trials over the seeds."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from petune import methods
from petune.comparison.record import Comparison, ExampleAnswer, Trial
from petune.comparison.reporting.quantities import amount
from petune.errors import ConfigError


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """The values of one figure over the seeds."""

    mean: float
    low: float
    high: float
    count: int


@final
@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A row of the comparison's tables."""

    number: int
    """Its number in the report, from 1; by it sentences and links name the row."""

    base: str
    method: str

    label: str
    """The method's title, with the settings that tell it from others of the same method; else with its entry."""

    trials: tuple[Trial, ...]
    """The trials that are compared, by seed; empty where none was reached."""

    search: tuple[Trial, ...]
    """The trials that searched for its settings: those of its entry in the recipe."""

    @property
    def entry(self) -> str:
        """The entry of the recipe that it belongs to."""
        return next((trial.entry for trial in (*self.trials, *self.search)), "")

    @property
    def done(self) -> tuple[Trial, ...]:
        """The trials that ended well."""
        return tuple(trial for trial in self.trials if trial.status == "done")

    @property
    def problems(self) -> tuple[Trial, ...]:
        """The trials that did not; where no trial was reached, those of a search that none came through."""
        ended = self.trials or self.search
        if not self.trials and any(trial.status == "done" for trial in ended):
            return ()  # final trials are still to come
        return tuple(trial for trial in ended if trial.status != "done")

    @property
    def untrained(self) -> bool:
        """Whether it is the floor: what the base does without training."""
        return any(trial.stage == "floor" for trial in self.trials)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its trials."""
        return self.trials[0].settings if self.trials else {}

    @property
    def vocabulary(self) -> str:
        """The tokens that it adds to the base's own, or their file; empty where it adds none."""
        return "" if self.untrained else value_text(self.settings.get("new_tokens") or "")

    @property
    def set_to(self) -> str:
        """The settings as ``key value, key value``."""
        return ", ".join(f"{key} {value_text(value)}" for key, value in self.settings.items())

    @property
    def quality(self) -> Spread | None:
        """The chosen metric on the test split."""
        return self.spread(lambda trial: trial.quality)

    @property
    def examples(self) -> Sequence[ExampleAnswer]:
        """The answers of the first trial that has some."""
        return next((trial.examples for trial in self.done if trial.examples), ())

    @property
    def kept(self) -> Trial | None:
        """The trial whose adapter to use: the best on the development split, as the test split must not choose."""
        stored = [trial for trial in self.done if trial.adapter is not None]
        measured = [trial for trial in stored if not math.isnan(trial.development.get(trial.metric, math.nan))]
        if not measured:
            return stored[0] if stored else None
        choose = max if measured[0].higher_is_better else min
        return choose(measured, key=lambda trial: trial.development[trial.metric])

    def figures(self, value: Callable[[Trial], float | None]) -> list[float]:
        """Return a figure of each trial that ended well and has it."""
        return [float(v) for trial in self.done if (v := value(trial)) is not None]

    def spread(self, value: Callable[[Trial], float | None]) -> Spread | None:
        """Return mean and range of a figure over the trials that ended well; None where none has it."""
        values = self.figures(value)
        if not values:
            return None
        return Spread(statistics.fmean(values), min(values), max(values), len(values))

    def mean(self, value: Callable[[Trial], float | None]) -> float | None:
        """Return the mean of a figure; None where no trial has it."""
        spread = self.spread(value)
        return None if spread is None else spread.mean

    def median(self, value: Callable[[Trial], float | None]) -> float | None:
        """Return the median of a figure; None where no trial has it."""
        values = self.figures(value)
        return statistics.median(values) if values else None


def value_text(value: Any) -> str:
    """Return a setting as people write it: a list as its words, a float without superfluous digits."""
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return " ".join(value)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def title_of(method: str) -> str:
    """Return the name that people use for a method, as a heading, or its own name where the registry lacks it."""
    try:
        title = methods.get(method).title
    except ConfigError:
        return method
    return title[0].upper() + title[1:]


def contenders_of(comparison: Comparison) -> list[Contender]:
    """Return the contenders in the order in which their bases and methods first appear, and numbered so."""
    groups: dict[tuple[str, str], dict[str, list[Trial]]] = {}
    searches: dict[tuple[str, str], dict[str, list[Trial]]] = {}
    for trial in comparison.trials:
        pair = (trial.base, trial.method)
        variants = groups.setdefault(pair, {})
        if trial.stage == "search":
            searches.setdefault(pair, {}).setdefault(trial.entry, []).append(trial)
        else:
            variants.setdefault(_identity(trial), []).append(trial)
    found: list[Contender] = []
    for base in dict.fromkeys(base for base, _ in groups):
        for pair, variants in groups.items():
            if pair[0] != base:
                continue
            ordered = [tuple(sorted(trials, key=lambda trial: trial.seed)) for trials in variants.values()]
            apart = _differing(trials[0] for trials in ordered)
            of_pair = searches.get(pair, {})
            own: list[Contender] = []
            for trials in ordered:
                label, search = _label(pair[1], trials, apart), of_pair.get(trials[0].entry, ())
                own.append(Contender(len(found) + len(own) + 1, *pair, label, trials, tuple(search)))
            reached = {trials[0].entry for trials in ordered}
            for entry, tried in of_pair.items():
                if entry not in reached:
                    label = _label(pair[1], (), apart)
                    own.append(Contender(len(found) + len(own) + 1, *pair, label, (), tuple(tried)))
            found += _told_apart(own)
    return found


def _told_apart(contenders: Sequence[Contender]) -> list[Contender]:
    """Return the contenders; those of one method that would read alike have their entry in the label."""
    labels = [contender.label for contender in contenders]
    return [
        replace(c, label=f"{c.label} (entry {c.entry})") if c.entry and labels.count(c.label) > 1 else c
        for c in contenders
    ]


def _identity(trial: Trial) -> str:
    return json.dumps([trial.stage, trial.entry, _described(trial)], sort_keys=True, default=str)


def _described(trial: Trial) -> dict[str, Any]:
    return {**trial.settings, "budget": amount(trial.budget)}


def _differing(trials: Iterable[Trial]) -> set[str]:
    """Return the settings in which the trials are not all alike; floors have none."""
    described = [_described(trial) for trial in trials if trial.stage == "final"]
    keys = {key for settings in described for key in settings}
    return {key for key in keys if len({json.dumps(s.get(key), default=str) for s in described}) > 1}


def _label(method: str, trials: Sequence[Trial], apart: set[str]) -> str:
    title = title_of(method)
    if trials and trials[0].stage == "floor":
        return f"{title} (untrained)"
    described = _described(trials[0]) if trials else {}
    notes = ", ".join(f"{key} {value_text(described[key])}" for key in sorted(apart & described.keys()))
    return f"{title} ({notes})" if notes else title
