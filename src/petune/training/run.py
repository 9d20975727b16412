"""One training run, from recipe to adapter folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from petune import methods
from petune.backbone.base import Base
from petune.data.report import DataReport
from petune.training import output, selection
from petune.training.drafts import checkpoint_to_resume, draft, load_base_for
from petune.training.events import Listener
from petune.training.one_pass import OnePass, ready
from petune.training.recipe import Recipe
from petune.training.result import TrainingResult


def train(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    base: Base | None = None,
    resume: bool = False,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    listeners: Sequence[Listener] = (),
    on_data: Callable[[DataReport, DataReport | None], None] | None = None,
    estimate: bool | float = False,
) -> TrainingResult:
    """Train one adapter, or choose among candidates where its method does not train, and write its folder.

    Args:
        recipe: a recipe, its keys, or the path of its YAML file.
        base: a base loaded already, instead of the recipe's ``model``.
        resume: go on from the newest checkpoint in ``output_dir``.
        overwrite: replace the run that ``output_dir`` holds.
        trust_remote_code: let the base's repository run its own code.
        listeners: told of every step, evaluation and checkpoint.
        on_data: given the data reports of the training and validation rows (of several ways to write them, the first)
            before the first step; once for each task where the recipe names several.
        estimate: go through a few batches before the first step to tell the listeners, and the result, what time and
            memory the run will take; a number is the largest share of that time that doing so may take, else nothing
            is estimated. A recipe with a memory budget does that anyway.

    Raises:
        PetuneError: see :mod:`petune.errors`; bad input is found before the base loads wherever it can be.
    """
    recipe = Recipe.of(recipe)
    one = draft(recipe, base=base, resume=resume, overwrite=overwrite, trust_remote_code=trust_remote_code)
    with output.held([one.folder], resume=resume, overwrite=overwrite):
        checkpoint = checkpoint_to_resume(recipe) if resume else None
        if base is None:
            base = load_base_for({"": one}, trust_remote_code=trust_remote_code)
        entry = ready(one, base, checkpoint=checkpoint, listeners=listeners)
        if on_data is not None:
            for rows in entry.data:
                on_data(rows.rows.report, rows.eval_report)
        if not methods.get(recipe.run.method).trains:
            return selection.choose(recipe, base, entry.adapter, one.rows, overwrite=overwrite)
        how = f"Go on with: {output.line_to_resume(one.folder, trust_remote_code=trust_remote_code)}"
        (outcome,) = OnePass(base, [entry], overwrite=overwrite, how_to_go_on=how, estimate=estimate).run()
    if outcome.error is not None:
        raise outcome.error
    assert outcome.result is not None
    return outcome.result
