"""The rows of one run: rendered, encoded for its base and its adapter, and how they became text."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, get_args

from petune.backbone.base import Base
from petune.checkpoint.durable import write_text
from petune.data.encoding import EncodedSet, kept_whole, of_task
from petune.data.examples import ExampleSet
from petune.data.loading import CheckedRows, render_examples
from petune.data.options import FORMAT_FIELDS, DataOptions, LayoutName
from petune.data.report import DataReport
from petune.errors import ConfigError, DataError, nearest
from petune.evaluation.predict import are_choices
from petune.evaluation.runner import context_length
from petune.evaluation.scoring import distinct_labels
from petune.sites.placement import Insertion
from petune.tasks.rows import TaskRows
from petune.tasks.task import Task
from petune.training import output
from petune.training.recipe import FILE_NAME as RECIPE_FILE
from petune.training.recipe import Recipe


@final
@dataclass(frozen=True, slots=True)
class RunRows:
    """Encoded training rows; encoded and rendered validation rows, where there are any; and what they are for."""

    name: str
    """Of the task, where a run has several; else empty."""
    task: Task
    examples: ExampleSet
    rows: EncodedSet
    eval_rows: EncodedSet | None
    eval_examples: ExampleSet | None
    """Those of them that were neither dropped nor cut."""

    @property
    def eval_report(self) -> DataReport | None:
        """The data report of the validation rows, where there are any."""
        return None if self.eval_rows is None else self.eval_rows.report


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """Put the name of a task, where there is one, before what is said of its settings and rows inside the block."""
    try:
        yield
    except (ConfigError, DataError) as error:
        if not name:
            raise
        raise type(error)(f"task '{name}': {error}") from error


def encode_rows(
    read: TaskRows,
    base: Base,
    *,
    name: str = "",
    virtual_tokens: int = 0,
    insertions: Sequence[Insertion] = (),
) -> RunRows:
    """Render and encode the rows of a run, or of one of its tasks.

    Args:
        read: what the options' files hold, and what it is for.
        base: the model that will see them.
        name: of the task, where the run has several.
        virtual_tokens: positions that the adapter takes in front of each row.
        insertions: virtual tokens that it has written into each row.

    Raises:
        DataError: rows are too long, or nothing is left to learn.
    """
    options = read.options
    labels = base.labels_of(name)

    def encoded(rows: CheckedRows) -> tuple[ExampleSet, EncodedSet]:
        examples = render_examples(rows, options, base.tokenizer)
        found = read.task.encode_within(
            examples,
            base.tokenizer,
            labels=labels,
            max_length=options.max_length,
            overlong=options.overlong,
            model_limit=context_length(base.model),
            virtual_tokens=virtual_tokens,
            insertions=insertions,
        )
        return examples, of_task(found, name) if name else found

    assert read.data.train is not None
    examples, rows = encoded(read.data.train)
    if read.data.eval is None:
        return RunRows(name, read.task, examples, rows, None, None)
    eval_examples, eval_rows = encoded(read.data.eval)
    require_known_labels(examples, eval_examples)
    return RunRows(name, read.task, examples, rows, eval_rows, kept_whole(eval_examples, eval_rows))


def require_known_labels(train: ExampleSet, evaluation: ExampleSet) -> None:
    """Check that rows to measure on have no label of their own.

    Args:
        train: the training rows.
        evaluation: the rows to measure on.

    Raises:
        DataError: one has; nothing learned could be right about it.
    """
    if not (are_choices(train) and are_choices(evaluation)):
        return
    labels = distinct_labels(train)
    strange = [example for example in evaluation if example.choices_key not in labels]
    if strange:
        label = str(strange[0].choices_key)
        raise DataError(
            f"{evaluation.source}: {len(strange):,} of {len(evaluation):,} rows have a label that no training row has;"
            f" the first is '{label}' at {strange[0].origin}.{nearest(label, labels)} The labels are"
            f" {', '.join(labels)}"
        )


def data_format(options: DataOptions, examples: ExampleSet, base: Base, name: str = "") -> dict[str, Any]:
    """Return how the rows became text, for the adapter to remember, and the words to compare if no head names any."""
    form: dict[str, Any] = {name: getattr(options, name) for name in FORMAT_FIELDS}
    if examples.layout in get_args(LayoutName):  # what auto found
        form["layout"] = examples.layout
    if not base.labels_of(name) and are_choices(examples):
        form["labels"] = list(distinct_labels(examples))
    return form


def record_start(recipe: Recipe, folder: Path, data: Sequence[RunRows]) -> None:
    """Write the recipe and the data reports of a run that begins, those of several tasks by name."""
    write_text(folder / RECIPE_FILE, recipe.to_yaml())
    of_each = {rows.name: _reports(rows) for rows in data}
    reports = of_each.get("", {"tasks": of_each})
    write_text(folder / output.REPORT_FILE, json.dumps(reports, indent=2, ensure_ascii=False) + "\n")


def _reports(rows: RunRows) -> dict[str, Any]:
    train = {"train": rows.rows.report.to_dict()}
    return train if rows.eval_report is None else {**train, "eval": rows.eval_report.to_dict()}
