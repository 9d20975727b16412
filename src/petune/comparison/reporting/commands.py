"""The commands of the report: to use what was trained, and to repeat it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from petune.comparison.command import trusting
from petune.comparison.recipe import CompareOptions
from petune.comparison.reporting.contenders import Contender
from petune.comparison.reporting.standing import Standing

_ROWS = "data/test.jsonl"
"""Rows to answer, in the folder of the comparison."""

_LOADING = ("dtype", "quantization", "device")
"""Keys of the recipe that say how a base is loaded, which an adapter does not remember."""


@final
@dataclass(frozen=True, slots=True)
class Use:
    """How to use a contender's adapter, from the folder of the comparison."""

    contender: Contender

    why: str
    """What it is recommended for."""

    lines: tuple[str, ...]
    """Commands for the shell."""

    python: str
    """The same as a program."""


def uses_of(standing: Standing, recipe: Mapping[str, Any], *, trust_remote_code: bool = False) -> list[Use]:
    """Return how to use the best and, where it is another, the smallest within its noise.

    Args:
        standing: the contenders of a base.
        recipe: of the comparison; the base is loaded as it was there.
        trust_remote_code: whether the base needs its own code to be trusted.
    """
    best, smallest = standing.best, standing.least(lambda trial: trial.bytes_stored)
    chosen = {} if best is None else {best: f"the best on {standing.base}"}
    if smallest is not None:
        chosen.setdefault(smallest, f"the smallest within the noise of the best on {standing.base}")
    loading = {name: recipe[name] for name in _LOADING if name in recipe}
    given = {name: value for name, value in loading.items() if value != CompareOptions.model_fields[name].default}
    found = [_use(contender, why, given, trust_remote_code) for contender, why in chosen.items()]
    return [use for use in found if use is not None]


def _use(contender: Contender, why: str, given: Mapping[str, str], trust_remote_code: bool) -> Use | None:
    trial = contender.kept
    if trial is None or trial.adapter is None:
        return None
    path = shlex.quote(trial.adapter)
    lines = [f"petune predict --adapter {path} --data {_ROWS}"]
    call = f'petune.predict(model, "{_ROWS}")'
    if trial.can_generate:
        lines.insert(0, f'petune generate --adapter {path} --prompt "..."')
        call = 'petune.generate(model, ["..."])[0].text'
    flags = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items())
    words = "".join(f", {name}={value!r}" for name, value in given.items())
    trust = ", trust_remote_code=True" if trust_remote_code else ""
    python = f"import petune\n\nmodel = petune.load({trial.adapter!r}{words}{trust})\nprint({call})"
    return Use(contender, why, tuple(trusting(f"{line}{flags}", trust_remote_code) for line in lines), python)
