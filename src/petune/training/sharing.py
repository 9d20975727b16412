"""Which runs may share one pass over one base."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petune import methods
from petune.backbone.vocabulary import read_tokens
from petune.errors import ConfigError
from petune.tasks.head_task import HeadTask
from petune.training.drafts import Draft
from petune.training.recipe import Recipe

_OF_THE_BASE = ("model", "revision", "task", "dtype", "quantization", "device")
_OF_THE_PASS = (
    *("gradient_checkpointing", "memory_budget", "share_prefix"),
    *("trunk_cache", "keep_trunk_cache", "trunk_cache_dir"),
)
_ONE_RUN_A_PROCESS = frozenset({"wandb", "mlflow", "trackio"})


def require_one_base(recipes: Mapping[str, Recipe], *, loaded: bool) -> None:
    """Check that recipes, by the names of their adapters, can be trained on one base in one pass.

    Args:
        recipes: the recipes.
        loaded: whether the base is loaded already, so that what the recipes say of it does not count.

    Raises:
        ConfigError: they cannot, with the reason.
    """
    for name, recipe in recipes.items():
        method = methods.get(recipe.run.method)
        if not method.trains:
            raise ConfigError(
                f"{name}: {method.title} trains nothing, so there is no pass to share; run it alone, with petune.train"
                " or petune train"
            )
        if len(recipes) > 1 and not method.shares_batch:
            raise ConfigError(
                f"{name}: {method.title} replaces weights of the base, which the other adapters need as they are;"
                " train it alone"
            )
        tracker = next((tracker for tracker in recipe.run.report_to if tracker in _ONE_RUN_A_PROCESS), None)
        if len(recipes) > 1 and tracker is not None:
            raise ConfigError(
                f"{name}: {tracker} follows one run a process, and here are {len(recipes)}; report to tensorboard, or"
                " train them apart"
            )
        if len(recipes) > 1 and recipe.run.torch_compile:
            raise ConfigError(
                f"{name}: torch_compile is for one adapter: each route of rows would be compiled anew; leave it out, or"
                " train the adapters apart"
            )
    keys = _OF_THE_PASS if loaded else (*_OF_THE_BASE, *_OF_THE_PASS)
    for key in keys:
        _require_same(key, {name: getattr(recipe.run, key) for name, recipe in recipes.items()})
    _require_same("new_tokens", {name: read_tokens(recipe.method.new_tokens) for name, recipe in recipes.items()})


def require_one_head(drafts: Mapping[str, Draft], *, loaded: bool) -> None:
    """Check that the rows of ``drafts`` are for one task, and for one head of it.

    Args:
        drafts: the runs, by the names of their adapters.
        loaded: whether the base is loaded already, and its head with it.

    Raises:
        ConfigError: they are not.
    """
    _require_same("task", {name: _tasks_of(draft) for name, draft in drafts.items()})
    if loaded:
        return
    classes = {name: _shown([rows.labels for rows in draft.rows]) for name, draft in drafts.items()}
    _require_same("the list of classes", classes)
    if any(isinstance(rows.task, HeadTask) for draft in drafts.values() for rows in draft.rows):
        _require_same(
            "seed",
            {name: draft.recipe.run.seed for name, draft in drafts.items()},
            why="a head that the base comes without starts from it; or load the base first and hand it over",
        )


def require_own_folders(recipes: Mapping[str, Recipe], shared: Path | None) -> None:
    """Check that no two runs write to one folder, nor to that of the recipe which has them all.

    Raises:
        ConfigError: two would.
    """
    folders = {} if shared is None else {shared.resolve(): "the recipe of all"}
    for name, recipe in recipes.items():
        folder = Path(recipe.run.output_dir).resolve()
        if folder in folders:
            raise ConfigError(
                f"{folders[folder]} and {name} would both write to {recipe.run.output_dir}; give each an output_dir"
            )
        folders[folder] = name


def _require_same(key: str, values: Mapping[str, Any], why: str = "they share one base") -> None:
    first, *others = values.items()
    for name, value in others:
        if value != first[1]:
            raise ConfigError(
                f"{key} is {_shown(first[1])} for {first[0]} and {_shown(value)} for {name}: adapters that train"
                f" together have one, because {why}; make it one, or train them apart"
            )


def _tasks_of(draft: Draft) -> str:
    """Return the tasks of a run in words, with their names where it has several."""
    pairs = zip(draft.tasks, draft.rows, strict=True)
    return ", ".join(f"{task.name} ({rows.task.name})" if task.name else rows.task.name for task, rows in pairs)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, tuple):
        return f"({', '.join(map(str, value))})"
    return str(value)
