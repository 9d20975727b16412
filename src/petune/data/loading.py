"""From options to rendered rows: read, check, set validation rows aside, render.

:func:`check_files` needs no tokenizer, so that every bad line is told before a model loads;
:func:`render_examples` then turns the checked rows into text.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from petune.data.contents import Content, RowParser, has_something_to_learn
from petune.data.examples import Example, ExampleSet
from petune.data.layouts import Layout, choose_layout, map_columns
from petune.data.options import DataOptions
from petune.data.problems import Problems, RowProblem
from petune.data.reading import read_rows
from petune.data.rendering import Renderer
from petune.data.rows import Rows
from petune.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class CheckedRows:
    """Rows that were read and found sound, not yet rendered."""

    rows: Rows
    layout: Layout
    contents: tuple[Content, ...]
    """One for each row, in order."""

    def select(self, indices: list[int]) -> "CheckedRows":
        """Return the rows of these indices, in this order."""
        contents = tuple(self.contents[index] for index in indices)
        return CheckedRows(self.rows.select(indices), self.layout, contents)


@dataclass(frozen=True)
class CheckedData:
    """What :func:`check_files` found: training rows and, where asked for, validation rows."""

    train: CheckedRows | None
    eval: CheckedRows | None


def check_files(options: DataOptions, *, seed: int = 42, require_target: bool = True) -> CheckedData:
    """Read and check every row, without a model or a tokenizer.

    Args:
        options: which files, and how to read them.
        seed: seed of ``path#N`` samples and of the validation split.
        require_target: False lets rows lack what is to be learned (rows to predict).

    Raises:
        DataError: all problems of all files at once, the first 20 told; or no rows; or no such layout.
    """
    if options.data is None and options.eval_data is None:
        raise DataError(
            "no data was named; give --data with a .jsonl, .json, .csv or .parquet file, or a hub data set id"
        )
    problems = Problems()
    train = evaluation = None
    if options.data is not None:
        train = _check(options.data, options, seed, require_target, problems, ("train",))
    if options.eval_data is not None:
        evaluation = _check(options.eval_data, options, seed, require_target, problems, ("validation", "test"))
    problems.raise_if_any()
    if train is not None and options.validation_split is not None:
        chosen = split_indices(len(train.contents), options.validation_split, seed, train.rows.source)
        rest = sorted(set(range(len(train.contents))) - set(chosen))
        train, evaluation = train.select(rest), train.select(chosen)
    return CheckedData(train, evaluation)


def check_source(
    source: str, options: DataOptions, *, seed: int = 42, splits: tuple[str, ...] = ("train",)
) -> tuple[Rows, CheckedRows]:
    """Read and check every row of one source; return the rows as they were read, and checked.

    Args:
        source: a file or a hub data set id.
        options: how to read it; its own files are not looked at.
        seed: seed of a ``path#N`` sample.
        splits: of a hub id without ``@split``, the first of these that it has.

    Raises:
        DataError: all problems at once, the first 20 told; or no rows; or no such layout.
    """
    problems = Problems()
    rows = read_rows(source, seed=seed, splits=splits)
    checked = _check_rows(rows, source, options, require_target=True, problems=problems)
    problems.raise_if_any()
    return rows, checked


Part = Literal["validation", "test"]
"""What rows are set aside for."""


def split_indices(count: int, share: float, seed: int, source: str, *, part: Part = "validation") -> list[int]:
    """Return the sorted indices of the rows set aside; they depend on the arguments alone.

    Args:
        count: rows there are.
        share: a share below 1, or a whole number of rows.
        seed: seed of the choice.
        source: name of the rows, for the error.
        part: what they are set aside for, for the error.

    Raises:
        DataError: no row would be left to train on, or none set aside.
    """
    size = round(count * share) if share < 1 else int(share)
    if not 0 < size < count:
        file = "--test-data" if part == "test" else "--eval-data"
        raise DataError(
            f"{source}: --{part}-split {share:g} would set {size:,} of {count:,} rows aside; both parts "
            f"need at least one row: give a whole number from 1 to {count - 1:,}, or a file with {file}"
            if count > 1
            else f"{source}: one row cannot be split; give {part} rows with {file}"
        )
    return sorted(random.Random(f"validation:{seed}").sample(range(count), size))  # noqa: S311 - a split, not a secret


def render_examples(
    checked: CheckedRows, options: DataOptions, tokenizer: "PreTrainedTokenizerBase | None"
) -> ExampleSet:
    """Render checked rows to text.

    Args:
        checked: from :func:`check_files`, with the same options.
        options: templates and what is learned.
        tokenizer: the base model's; None is enough where no chat template is used.

    Raises:
        DataError: a chat template fails on rows, or the tokenizer has no chat template where one is needed.
    """
    renderer = Renderer(options, tokenizer)
    problems = Problems()
    examples: list[Example] = []
    for index, content in enumerate(checked.contents):
        origin = checked.rows.origin(index)
        try:
            examples.append(renderer.render(content, checked.rows.rows[index], origin))
        except RowProblem as problem:
            problems.add(checked.rows.source, checked.rows.numbers[index], origin, problem)
    problems.raise_if_any()
    return ExampleSet(examples, source=checked.rows.source, layout=checked.layout.name)


def load_examples(
    options: DataOptions,
    tokenizer: "PreTrainedTokenizerBase | None",
    *,
    which: Literal["train", "eval"] = "train",
    seed: int = 42,
    require_target: bool = True,
) -> ExampleSet:
    """Read, check and render the training or the validation rows; empty where the options name none.

    Raises:
        DataError: as :func:`check_files` and :func:`render_examples` do.
    """
    data = check_files(options, seed=seed, require_target=require_target)
    checked = data.train if which == "train" else data.eval
    if checked is None:
        return ExampleSet((), source="none", layout="none")
    return render_examples(checked, options, tokenizer)


def _check(
    source: str,
    options: DataOptions,
    seed: int,
    require_target: bool,
    problems: Problems,
    splits: tuple[str, ...],
) -> CheckedRows | None:
    """Read and check one source; what is wrong with it is gathered, and None stands for no usable rows."""
    try:
        rows = read_rows(source, seed=seed, splits=splits, problems=problems)
        return _check_rows(rows, source, options, require_target, problems) if rows.rows else None
    except DataError as error:
        problems.add_error(source, error)
        return None


def _check_rows(rows: Rows, source: str, options: DataOptions, require_target: bool, problems: Problems) -> CheckedRows:
    rows = map_columns(rows, options.columns, has_template=options.template is not None, require_target=require_target)
    layout = choose_layout(rows.columns, options, source=source, require_target=require_target)
    parser = RowParser(layout, options, rows.columns, require_target=require_target)
    contents: list[Content] = []
    for index, row in enumerate(rows.rows):
        try:
            contents.append(parser.parse(row))
        except RowProblem as problem:
            problems.add(rows.source, rows.numbers[index], rows.origin(index), problem)
    if require_target and contents and not any(map(has_something_to_learn, contents)):
        raise DataError(
            f"{source}: not one of {len(contents):,} rows has anything to learn: its text, completion "
            f"or assistant "
            "turns are empty; fill them in, or say with --columns or --target where the text to learn is"
        )
    return CheckedRows(rows, layout, tuple(contents))
