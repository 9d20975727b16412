"""A recipe of several adapters: common keys, and under ``adapters`` what is each one's own.

```yaml
model: demo
data: examples/reviews.jsonl
output_dir: outputs/reviews     # each adapter gets a folder of its name in it
adapters:
  small: {r: 4}
  large: {r: 32, learning_rate: 1.0e-4}
```
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import yaml

from petune.errors import ConfigError
from petune.training.paths import at_home
from petune.training.recipe import SEVERAL, Recipe, RunOptions, read_yaml

_HOW = f"write a mapping of names to keys: {SEVERAL}: {{small: {{r: 4}}, large: {{r: 32}}}}"


@final
@dataclass(frozen=True, slots=True)
class SharedRecipe:
    """The recipes of adapters that are trained together, by name."""

    output_dir: Path
    """The folder of the recipe; those of the adapters lie in it unless they say otherwise."""
    recipes: Mapping[str, Recipe]

    @classmethod
    def parse(cls, keys: Mapping[str, Any]) -> Self:
        """Return the recipes that ``keys`` describe, ``adapters`` among them.

        Raises:
            ConfigError: an adapter's keys are no recipe (it is named), or a name cannot be that of a folder.
        """
        recipes = {}
        for name, own in spread(keys).items():
            try:
                recipes[name] = Recipe.parse(own)
            except ConfigError as error:
                raise type(error)(f"{SEVERAL}: {name}: {error}") from error
        return cls(_folder(keys), recipes)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Return the recipes in the YAML file ``path``.

        Raises:
            ConfigError: the file is missing or not YAML, or :meth:`parse` refuses what it holds.
        """
        return cls.parse(read_yaml(Path(path)))

    def to_yaml(self) -> str:
        """Return YAML that :meth:`read` takes: what all adapters have in common, then what each has of its own."""
        keys = {name: recipe.keys() for name, recipe in self.recipes.items()}
        first = next(iter(keys.values()))
        common = {k: v for k, v in first.items() if all(k in own and own[k] == v for own in keys.values())}
        own = {name: {k: v for k, v in own.items() if k not in common} for name, own in keys.items()}
        for name, rest in own.items():
            if rest.get("output_dir") == str(self.output_dir / name):
                del rest["output_dir"]  # so that a folder may be moved, and the recipe written to another
        whole = {**common, "output_dir": str(self.output_dir), SEVERAL: own}
        return yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


def spread(keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the keys of each adapter's recipe, by its name: the common ones, and its own over them.

    Raises:
        ConfigError: ``adapters`` is no mapping of names to keys, or a name cannot be that of a folder.
    """
    adapters = keys.get(SEVERAL)
    if not isinstance(adapters, Mapping) or not adapters:
        raise ConfigError(f"{SEVERAL} is {adapters!r}; {_HOW}")
    common = {key: value for key, value in keys.items() if key != SEVERAL}
    spread: dict[str, dict[str, Any]] = {}
    for key, own in adapters.items():
        name = str(key)
        if own is not None and not isinstance(own, Mapping):
            raise ConfigError(f"{SEVERAL}: {name} is {own!r}; {_HOW}")
        if not name.strip() or name in (".", "..") or any(mark in name for mark in "/\\"):
            raise ConfigError(f"{SEVERAL}: {name!r} is to be the name of a folder; leave slashes out")
        spread[name] = {**common, "output_dir": str(_folder(keys) / name), **(own or {})}
    return spread


def _folder(keys: Mapping[str, Any]) -> Path:
    return Path(at_home(str(keys.get("output_dir", RunOptions.model_fields["output_dir"].default))))
