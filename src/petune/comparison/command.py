"""The command lines of a training and of a comparison."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from petune import methods
from petune.comparison.recipe import CompareOptions, CompareRecipe
from petune.training.options import TrainingOptions
from petune.training.recipe import Recipe, RunOptions


def train_command(keys: Mapping[str, Any]) -> str:
    """Return the `petune train` line with these keys; what the defaults say is left out.

    Raises:
        ConfigError: a key is unknown or out of range.
    """
    recipe = Recipe.parse(keys)
    words = ["petune", "train"]
    for name, value in recipe.run.model_dump(mode="json").items():
        if value != _plain(RunOptions.model_fields[name].default):
            words += _flag(name, value)
    config = methods.get(recipe.run.method).config_class
    for name, value in recipe.method.model_dump(mode="json").items():
        if value != _plain(config.model_fields[name].default):
            words.append(f"{name}={_written(value)}")
    return shlex.join(words)


def compare_command(names: Sequence[str], keys: Mapping[str, Any]) -> str:
    """Return the `petune compare` line of some methods with these keys.

    Args:
        names: the methods.
        keys: what else the recipe says; what the defaults say is left out.

    Raises:
        ConfigError: a key is unknown or out of range.
    """
    recipe = CompareRecipe.parse({**keys, "methods": list(names)})
    fields = {**TrainingOptions.model_fields, **CompareOptions.model_fields}
    words = ["petune", "compare", "--methods", *names]
    for name, value in recipe.keys().items():
        if name == "models":
            words += ["--models", *value]
        elif name != "methods" and value != _plain(fields[name].default):
            words += _flag(name, value)
    return shlex.join(words)


def trusting(line: str, trust_remote_code: bool) -> str:
    """Return a command line with the flag that lets a base run its own code, where that was allowed."""
    return f"{line} --trust-remote-code" if trust_remote_code else line


def _flag(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", _written(value)]


def _written(value: Any) -> str:
    """Return a value as a flag takes it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
