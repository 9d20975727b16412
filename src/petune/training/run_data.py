"""The rows of a training run: rendered, encoded, and on record."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from petune import methods
from petune.backbone.base import Base
from petune.checkpoint.durable import write_text
from petune.data.encoding import EncodedSet, encode, resolve_max_length
from petune.data.examples import ExampleSet
from petune.data.loading import CheckedData, render_examples
from petune.data.options import FORMAT_FIELDS, DataOptions, LayoutName
from petune.data.report import DataReport
from petune.evaluation.predict import are_choices
from petune.evaluation.runner import context_length
from petune.evaluation.scoring import distinct_labels
from petune.sites.embeddings import vocabulary_size
from petune.sites.placement import Insertion
from petune.training import output
from petune.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class RunData:
    """Rendered and encoded training rows, and validation rows where there are any."""

    examples: ExampleSet
    rows: EncodedSet
    eval_rows: EncodedSet | None
    eval_examples: ExampleSet | None

    @property
    def eval_report(self) -> DataReport | None:
        """What became of the validation rows."""
        return None if self.eval_rows is None else self.eval_rows.report


def encode_data(checked: CheckedData, recipe: Recipe, base: Base) -> RunData:
    """Render and encode the rows of a run.

    Raises:
        DataError: a row cannot be written or is too long, or nothing is left to learn.
    """
    options = recipe.run
    assert checked.train is not None
    length = resolve_max_length(options.max_length, base.tokenizer, model_limit=context_length(base.model))
    examples = render_examples(checked.train, options, base.tokenizer)
    placement = methods.get(options.method).placement(recipe.method, base.structure)
    settings: dict[str, Any] = {
        "max_length": length,
        "overlong": options.overlong,
        "insertions": [] if placement is None else [Insertion(placement, vocabulary_size(base.model))],
    }
    rows = encode(examples, base.tokenizer, **settings)
    if checked.eval is None:
        return RunData(examples, rows, None, None)
    eval_examples = render_examples(checked.eval, options, base.tokenizer)
    eval_rows = encode(eval_examples, base.tokenizer, **settings)
    return RunData(examples, rows, eval_rows, eval_examples)


def data_format(options: DataOptions, examples: ExampleSet) -> dict[str, Any]:
    """Return how the rows became text, for the adapter to remember, and the label words of classification rows."""
    form: dict[str, Any] = {name: getattr(options, name) for name in FORMAT_FIELDS}
    if examples.layout in get_args(LayoutName):  # what auto found
        form["layout"] = examples.layout
    if are_choices(examples):
        form["labels"] = list(distinct_labels(examples))
    return form


def record_start(recipe: Recipe, folder: Path, data: RunData) -> None:
    """Write the recipe and the data reports of a run that begins."""
    write_text(folder / output.RECIPE_FILE, recipe.to_yaml())
    reports = {"train": data.rows.report.to_dict()}
    if data.eval_report is not None:
        reports["eval"] = data.eval_report.to_dict()
    write_text(folder / output.REPORT_FILE, json.dumps(reports, indent=2, ensure_ascii=False) + "\n")
