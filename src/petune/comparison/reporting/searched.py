"""What the search for settings tried, what it showed, and what it cost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from petune.comparison.record import Trial
from petune.comparison.reporting.contenders import Contender, value_text
from petune.comparison.reporting.notices import STATUS
from petune.comparison.reporting.quantities import amount, number


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings that were tried."""

    key: str
    """All of them, as :func:`settings_key` writes them."""

    settings: str
    """Those that differ among the candidates, as ``key value``; one that is not given is the method's own."""

    results: tuple[str, ...]
    """For each rung it came to, the metric on the development split, or why there is none, and after how much."""

    chosen: bool
    """Whether the final trials have these settings."""


@final
@dataclass(frozen=True, slots=True)
class Search:
    """The search of one entry of the recipe on one base."""

    contender: Contender

    metric: str
    """What the candidates were judged by."""

    candidates: tuple[Candidate, ...]

    chosen: frozenset[str]
    """What the final trials were set to, as :func:`settings_key` writes it."""

    trials: int
    seconds: float


def searches_of(contenders: Sequence[Contender]) -> list[Search]:
    """Return the search behind each contender; several of one entry have one search, which stands with the first."""
    first: dict[tuple[str, str, str], Contender] = {}
    for contender in contenders:
        first.setdefault((contender.base, contender.method, contender.entry), contender)
    return [_search(contender, contender.search, contenders) for contender in first.values() if contender.search]


def _search(contender: Contender, trials: Sequence[Trial], contenders: Sequence[Contender]) -> Search:
    varied = _varied(trials)
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(settings_key(trial.settings), []).append(trial)
    chosen = frozenset(
        settings_key(c.settings)
        for c in contenders
        if (c.base, c.method, c.entry) == (contender.base, contender.method, contender.entry) and c.trials
    )
    candidates = []
    for key, members in groups.items():
        own = members[0].settings
        words = ", ".join(f"{name} {value_text(own[name])}" for name in varied if name in own)
        results = tuple(_result(trial) for trial in sorted(members, key=lambda trial: trial.rung or 0))
        candidates.append(Candidate(key, words or "as given", results, key in chosen))
    seconds = sum(trial.wall_seconds or trial.seconds or 0.0 for trial in trials)
    return Search(contender, trials[0].metric, tuple(candidates), chosen, len(trials), seconds)


def _varied(trials: Sequence[Trial]) -> list[str]:
    names = list(dict.fromkeys(name for trial in trials for name in trial.settings))
    return [name for name in names if len({settings_key(trial.settings.get(name)) for trial in trials}) > 1]


def _result(trial: Trial) -> str:
    after = f"after {amount(trial.budget)}"
    if trial.status != "done":
        return f"{STATUS[trial.status]} {after}: {trial.reason}"
    return f"{'not measured' if trial.quality is None else number(trial.quality)} {after}"


def settings_key(value: Any) -> str:
    """Return settings, or the value of one, as a text that is the same for equal ones."""
    return json.dumps(value, sort_keys=True, default=str)
