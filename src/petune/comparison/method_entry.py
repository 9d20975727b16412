"""One method of a comparison: its settings, and what is to be searched."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field

from petune import methods as registry
from petune.errors import ConfigError
from petune.training.recipe import Recipe, RunOptions

_OF_METHODS = ("learning_rate", "module_learning_rates", "weight_decay", "lr_scheduler_type", "warmup_ratio")
"""Keys of the optimisation that a method may have for itself."""


@final
class MethodEntry(BaseModel):
    """One method of a comparison. A method may stand there several times, with other settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    method: str
    """Name of the method, as `petune methods` lists it."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the method, and learning_rate where it is not to be searched; the same in all its trials."""

    search: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Values to choose from, by key: settings of the method, learning_rate; every combination is a candidate."""

    @property
    def label(self) -> str:
        """The entry in a line: the method, and the settings that were given, the same whatever their order."""
        given = " ".join(f"{key}={_short(value)}" for key, value in sorted(self.settings.items()))
        return f"{self.method} {given}".rstrip()

    def candidates(self, rate_factors: tuple[float, ...]) -> tuple[dict[str, Any], ...]:
        """Return the settings to choose from, in a fixed order.

        Args:
            rate_factors: multiples of the method's own learning rate, where the entry names no rate.

        Raises:
            ConfigError: a setting is unknown or out of range, or a key is to be searched over nothing, or twice over
                the same value.
        """
        method = registry.get(self.method)
        if twice := [key for key in self.search if key in self.settings]:
            raise ConfigError(
                f"method {self.method}: {', '.join(twice)} stands under settings, which hold in all trials, and under"
                " search; leave it out of one of them"
            )
        empty = [key for key, values in self.search.items() if not values]
        if empty:
            raise ConfigError(f"method {self.method}: search has no values for {', '.join(empty)}; give some, or none")
        combined = [dict(zip(self.search, values, strict=True)) for values in product(*self.search.values())]
        chosen: list[dict[str, Any]] = []
        found = []
        for given in ({**self.settings, **choice} for choice in combined):
            own = _checked_keys(self.method, given)
            if own in chosen:
                raise ConfigError(
                    f"method {self.method}: search has {', '.join(f'{key} {own[key]}' for key in self.search)} twice;"
                    " give each value once"
                )
            chosen.append(own)
            if not method.trains or "learning_rate" in own:
                found.append(own)
                continue
            rate = method.rate(method.configure(_of_method(own)))
            found += [{**own, "learning_rate": float(f"{rate * factor:.3g}")} for factor in rate_factors]
        return tuple(found)

    def variations(self, found: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        """Return other settings to try, each with one change to what was found; none where the entry has a search.

        What the entry has settings for stays as it is. Where the method has another rate with a change, the rate goes
        along.

        Args:
            found: settings, with a learning rate.
        """
        method = registry.get(self.method)
        if self.search or not method.variations:
            return ()
        usual = method.rate(method.configure(_of_method(found)))
        others = []
        for change in method.variations:
            if any(key in self.settings for key in change):
                continue
            try:
                config = method.configure(_of_method({**found, **change}))
            except ConfigError:  # the change and the entry's settings do not go together
                continue
            rate = found["learning_rate"] * method.rate(config) / usual
            others.append({**found, **change, "learning_rate": float(f"{rate:.3g}")})
        return tuple(others)


def _of_method(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings without those of the optimisation."""
    return {key: value for key, value in settings.items() if key not in _OF_METHODS}


def _checked_keys(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of one candidate, checked as the recipe of its training does; numbers in text are numbers.

    Raises:
        ConfigError: a key is unknown, out of range, or not the method's to have.
    """
    config = registry.get(method).config_class
    if idle := [key for key in RunOptions.model_fields if key in settings and key not in _OF_METHODS]:
        raise ConfigError(
            f"method {method}: {', '.join(idle)} is not for one method alone; give it beside methods, not in an entry."
            f" Its own keys are {', '.join([*config.model_fields, *_OF_METHODS])}"
        )
    read = Recipe.parse({**settings, "method": method}).keys()
    numbers = {k: read[k] for k, v in settings.items() if isinstance(v, str) and isinstance(read.get(k), int | float)}
    return {**settings, **numbers}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
