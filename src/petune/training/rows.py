"""The rows of one run: rendered, encoded for its base and its adapter, and how they became text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, get_args

from petune.backbone.base import Base
from petune.checkpoint.durable import write_text
from petune.data.encoding import EncodedSet, kept_whole
from petune.data.examples import ExampleSet
from petune.data.lengths import encode_within
from petune.data.loading import CheckedData, CheckedRows, render_examples
from petune.data.options import FORMAT_FIELDS, DataOptions, LayoutName
from petune.data.report import DataReport
from petune.evaluation.predict import are_choices
from petune.evaluation.runner import context_length
from petune.evaluation.scoring import distinct_labels
from petune.sites.placement import Insertion
from petune.training import output
from petune.training.recipe import FILE_NAME as RECIPE_FILE
from petune.training.recipe import Recipe


@final
@dataclass(frozen=True, slots=True)
class RunRows:
    """Encoded training rows; encoded and rendered validation rows, where there are any."""

    examples: ExampleSet
    rows: EncodedSet
    eval_rows: EncodedSet | None
    eval_examples: ExampleSet | None
    """Those of them that were neither dropped nor cut."""

    @property
    def eval_report(self) -> DataReport | None:
        """The data report of the validation rows, where there are any."""
        return None if self.eval_rows is None else self.eval_rows.report


def encode_rows(
    checked: CheckedData,
    options: DataOptions,
    base: Base,
    *,
    virtual_tokens: int = 0,
    insertions: Sequence[Insertion] = (),
) -> RunRows:
    """Render and encode the rows of a run.

    Args:
        checked: what the options' files hold.
        options: templates, what is learned, how long a row may be.
        base: the model that will see them.
        virtual_tokens: positions that the adapter takes in front of each row.
        insertions: virtual tokens that it has written into each row.

    Raises:
        DataError: rows are too long, or nothing is left to learn.
    """

    def encoded(rows: CheckedRows) -> tuple[ExampleSet, EncodedSet]:
        examples = render_examples(rows, options, base.tokenizer)
        return examples, encode_within(
            examples,
            base.tokenizer,
            max_length=options.max_length,
            overlong=options.overlong,
            model_limit=context_length(base.model),
            virtual_tokens=virtual_tokens,
            insertions=insertions,
        )

    assert checked.train is not None
    examples, rows = encoded(checked.train)
    if checked.eval is None:
        return RunRows(examples, rows, None, None)
    eval_examples, eval_rows = encoded(checked.eval)
    return RunRows(examples, rows, eval_rows, kept_whole(eval_examples, eval_rows))


def data_format(options: DataOptions, examples: ExampleSet) -> dict[str, Any]:
    """Return how the rows became text, for the adapter to remember, and the label words of classification rows."""
    form: dict[str, Any] = {name: getattr(options, name) for name in FORMAT_FIELDS}
    if examples.layout in get_args(LayoutName):  # what auto found
        form["layout"] = examples.layout
    if are_choices(examples):
        form["labels"] = list(distinct_labels(examples))
    return form


def record_start(recipe: Recipe, folder: Path, data: RunRows) -> None:
    """Write the recipe and the data reports of a run that begins."""
    write_text(folder / RECIPE_FILE, recipe.to_yaml())
    reports = {"train": data.rows.report.to_dict()}
    if data.eval_report is not None:
        reports["eval"] = data.eval_report.to_dict()
    write_text(folder / output.REPORT_FILE, json.dumps(reports, indent=2, ensure_ascii=False) + "\n")
