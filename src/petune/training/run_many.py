"""Several training runs in one pass over one base."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from petune.backbone.base import Base
from petune.checkpoint.durable import write_text
from petune.data.report import DataReport
from petune.errors import CheckpointError, ConfigError, nearest
from petune.training import output
from petune.training.checkpoints import Checkpoint, steps_in
from petune.training.drafts import Draft, about, checkpoint_to_resume, draft, load_base_for
from petune.training.events import Listener
from petune.training.one_pass import OnePass, ready
from petune.training.recipe import FILE_NAME, Recipe, read_yaml
from petune.training.result import Outcome
from petune.training.shared_recipe import SharedRecipe
from petune.training.sharing import require_one_base, require_one_head, require_own_folders

logger = logging.getLogger("petune")

Recipes = (
    Sequence[Recipe | Mapping[str, Any] | str | os.PathLike[str]]
    | SharedRecipe
    | Mapping[str, Any]
    | str
    | os.PathLike[str]
)
"""Several recipes, or one that has several adapters."""


def train_many(
    recipes: Recipes,
    *,
    base: Base | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    listeners: Mapping[str, Sequence[Listener]] | None = None,
    on_data: Callable[[str, DataReport, DataReport | None], None] | None = None,
    estimate: bool | float = False,
) -> list[Outcome]:
    """Train several adapters on one base in one pass, and write the folder of each.

    Rows of all of them go through the base together. Each has data, a method, rates, steps, evaluations, checkpoints
    and an early stop of its own, and the losses that it would have alone. One that fails once training has begun
    stops, and the others go on.

    Args:
        recipes: recipes, each with an ``output_dir`` of its own; or one recipe that has several ``adapters``: its keys,
            or the path of its YAML file. An adapter is called as there, else as its folder.
        base: a base loaded already, instead of the recipes' ``model``.
        resume: go on from the newest checkpoints; a run without one begins.
        overwrite: replace the runs that the folders hold.
        trust_remote_code: let the base's repository run its own code.
        listeners: who is told of every step, evaluation and checkpoint, by the adapter's name.
        on_data: given each adapter's name and its data reports of training and validation rows before the first step,
            once for each task where a recipe names several.
        estimate: as for :func:`train`; the estimate is of the whole pass.

    Returns:
        How each run ended, in the order of the recipes. The adapters that did not fail are attached to one model, by
        name; none is active where there are several.

    Raises:
        PetuneError: one of the runs cannot begin (it is named), they cannot share a base, or all were stopped.
    """
    named, shared = _read(recipes)
    where = None if shared is None else shared.output_dir
    unknown = next((name for name in listeners or {} if name not in named), None)
    if unknown is not None:
        raise ConfigError(f"listeners of '{unknown}', but the adapters are {', '.join(named)}{nearest(unknown, named)}")
    require_one_base(named, loaded=base is not None)
    require_own_folders(named, where)
    if where is not None:
        output.prepare(where, resume=resume, overwrite=overwrite)
    options = {"resume": resume, "overwrite": overwrite, "trust_remote_code": trust_remote_code}
    drafts = _drafts(named, base, **options)
    folders = [one.folder for one in drafts.values()] + ([] if where is None else [where])
    with output.held(folders, resume=resume, overwrite=overwrite):
        checkpoints = _checkpoints(named) if resume else {}
        if base is None:
            base = load_base_for(drafts, trust_remote_code=trust_remote_code)
        entries = []
        for name, one in drafts.items():
            with about(name):
                own = (listeners or {}).get(name, ())
                entries.append(ready(one, base, name, checkpoint=checkpoints.get(name), listeners=own))
            for rows in entries[-1].data if on_data is not None else ():
                on_data(name, rows.rows.report, rows.eval_report)  # type: ignore[misc]
        how = "Go on with: the same call of train_many, and resume=True"
        if shared is not None:
            how = f"Go on with: {output.line_to_resume(shared.output_dir, trust_remote_code=trust_remote_code)}"
            if overwrite:
                output.clear(shared.output_dir)
            write_text(shared.output_dir / FILE_NAME, shared.to_yaml())
        return OnePass(base, entries, overwrite=overwrite, how_to_go_on=how, estimate=estimate).run()


def _drafts(recipes: Mapping[str, Recipe], base: Base | None, **options: bool) -> dict[str, Draft]:
    """Return the runs, all of which can begin, with one head."""
    drafts = {}
    for name, recipe in recipes.items():
        with about(name):
            drafts[name] = draft(recipe, base=base, **options)
    require_one_head(drafts, loaded=base is not None)
    return drafts


def _read(recipes: Recipes) -> tuple[Mapping[str, Recipe], SharedRecipe | None]:
    """Return the recipes by the names of their adapters, and the one recipe that has them all, where there is one.

    Raises:
        ConfigError: a recipe is none, or there is none.
    """
    if isinstance(recipes, str | os.PathLike):
        recipes = read_yaml(Path(recipes))
    if isinstance(recipes, Mapping):
        recipes = SharedRecipe.parse(recipes)
    if isinstance(recipes, SharedRecipe):
        return recipes.recipes, recipes
    several = [Recipe.of(recipe) for recipe in recipes]
    if not several:
        raise ConfigError("no recipe to train with; give one at least")
    folders = [Path(recipe.run.output_dir) for recipe in several]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{names.count(twice)} recipes would write to {twice}; give each an output_dir of its own")
    return dict(zip(names, several, strict=True)), None


def _checkpoints(recipes: Mapping[str, Recipe]) -> dict[str, Checkpoint]:
    """Return the checkpoints to go on from; a run that was stopped before its first begins anew.

    Raises:
        CheckpointError: there is none at all, one is damaged, or a run had other settings.
    """
    found = {}
    for name, recipe in recipes.items():
        if steps_in(Path(recipe.run.output_dir)):
            with about(name):
                found[name] = checkpoint_to_resume(recipe)
    missing = [name for name in recipes if name not in found]
    if len(missing) == len(recipes):
        raise CheckpointError(
            f"none of {', '.join(missing)} has a checkpoint to resume from; start anew with --overwrite, or give the"
            " right --output-dir"
        )
    if missing:
        logger.warning("no checkpoint of %s: begun anew", ", ".join(missing))
    return found
