"""The rows of a comparison, in three parts: to train on, to choose by, and to measure the end on.

The parts are written as files into the comparison's folder, so that every trial reads the same rows, in the same order,
and can be repeated alone. Which row goes where depends on the rows' contents alone. Equal rows go to the same part.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, final

from petune.checkpoint.durable import write_text
from petune.checkpoint.manifest import file_digest
from petune.comparison.recipe import DEVELOPMENT_SHARE, TEST_SHARE, CompareOptions
from petune.data.contents import Content, Pair, Text
from petune.data.json_files import json_line
from petune.data.loading import Part, check_source, split_indices
from petune.errors import DataError

logger = logging.getLogger("petune")

SPLIT_SEED = 42
"""Seed of the parts and of ``#N`` samples, the same for all trials whatever their own seeds."""

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what it holds, where it comes from, and the digest of what it says."""

    fields: Mapping[str, Any]
    origin: str
    digest: str


@final
@dataclass(frozen=True, slots=True)
class Parts:
    """The rows of a comparison."""

    train: Sequence[Row]
    development: Sequence[Row]
    test: Sequence[Row]
    sources: Mapping[str, str]
    """SHA-256 of each source, by the name it was given under."""

    def write(self, folder: Path) -> "PartFiles":
        """Write the parts as JSONL files into ``folder``.

        Raises:
            OutputFolderError, ResourceError: they cannot be written.
        """
        files = PartFiles.within(folder)
        for field in fields(files):
            rows: Sequence[Row] = getattr(self, field.name)
            write_text(getattr(files, field.name), "".join(json_line(row.fields) for row in rows))
        return files


@final
@dataclass(frozen=True, slots=True)
class PartFiles:
    """Where the parts lie."""

    train: Path
    development: Path
    test: Path

    @classmethod
    def within(cls, folder: Path) -> Self:
        """Return where the parts lie in ``folder``."""
        return cls(folder / "train.jsonl", folder / "development.jsonl", folder / "test.jsonl")


def with_origins(text: str, parts: Parts, files: PartFiles, options: CompareOptions) -> str:
    """Return ``text`` with the user's own files and lines in the place of those of the parts.

    Args:
        text: an error, for instance.
        parts: the rows.
        files: where they lie, or lay.
        options: the names of the user's files.
    """
    for part, own in (("train", None), ("development", options.eval_data), ("test", options.test_data)):
        rows: Sequence[Row] = getattr(parts, part)
        path = str(getattr(files, part))

        def origin(found: re.Match[str], rows: Sequence[Row] = rows) -> str:
            return rows[int(found[1]) - 1].origin

        text = re.sub(rf"{re.escape(path)}:(\d+)", origin, text)
        text = text.replace(path, own or f"{options.data} ({part} rows)")
    return text


def split_rows(options: CompareOptions) -> Parts:
    """Read and check all rows, and tell the parts apart.

    Raises:
        DataError: a row cannot be used, a part would be empty, or test rows are training rows too.
    """
    assert options.data is not None
    given = {"data": ("train",), "test_data": ("test", "validation"), "eval_data": ("validation", "test")}
    named = {key: getattr(options, key) for key in given if getattr(options, key) is not None}
    read = _read_all({key: (source, given[key]) for key, source in named.items()}, options)
    sources = {source: _digest_of_source(source, read[key]) for key, source in named.items()}
    rows = read["data"]
    if "test_data" in read:
        test = read["test_data"]
    else:
        rows, test = _set_aside(rows, options.test_split or TEST_SHARE, options.data, "test")
    if "eval_data" in read:
        development = read["eval_data"]
    else:
        rows, development = _set_aside(rows, options.validation_split or DEVELOPMENT_SHARE, options.data, "validation")
    for part, name in ((rows, "training"), (development, "development")):
        _refuse_overlap(test, part, name, allowed=options.allow_overlap)
    return Parts(rows, development, test, sources)


def _read_all(sources: Mapping[str, tuple[str, tuple[str, ...]]], options: CompareOptions) -> dict[str, list[Row]]:
    """Return the rows of each source by its key.

    Args:
        sources: by key, the name of each, and which splits of a hub id it may be.
        options: how to read them.

    Raises:
        DataError: what is wrong with any of them, in one error.
    """
    found, problems = {}, []
    for key, (source, splits) in sources.items():
        try:
            found[key] = _read(source, options, splits)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return found


def _read(source: str, options: CompareOptions, splits: tuple[str, ...]) -> list[Row]:
    """Return the rows of a source; all that is wrong with them is told with the user's own lines."""
    rows, checked = check_source(source, options, seed=SPLIT_SEED, splits=splits)
    return [
        Row(row, rows.origin(index), content_digest(content))
        for index, (row, content) in enumerate(zip(rows.rows, checked.contents, strict=True))
    ]


def content_digest(content: Content) -> str:
    """Return the SHA-256 of what a row says, white space and capitals left out of account."""
    if isinstance(content, Text):
        pieces = [content.text]
    elif isinstance(content, Pair):
        pieces = [content.prompt, content.target or ""]
    else:
        pieces = [json.dumps(message, sort_keys=True, default=str) for message in content.messages]
    said = "\x1f".join(" ".join(piece.split()).casefold() for piece in pieces)
    return hashlib.sha256(said.encode()).hexdigest()


def _set_aside(rows: Sequence[Row], share: float, source: str, part: Part) -> tuple[list[Row], list[Row]]:
    """Return the rows that stay and those set aside; equal rows go together."""
    distinct = sorted({row.digest for row in rows})
    chosen = {distinct[index] for index in split_indices(len(distinct), share, SPLIT_SEED, source, part=part)}
    return [row for row in rows if row.digest not in chosen], [row for row in rows if row.digest in chosen]


def _refuse_overlap(test: Sequence[Row], part: Sequence[Row], name: str, *, allowed: bool) -> None:
    known = {row.digest: row.origin for row in part}
    twice = [(row.origin, known[row.digest]) for row in test if row.digest in known]
    if not twice:
        return
    shown = ", ".join(f"{one} = {other}" for one, other in twice[:_SHOWN]) + (", ..." if len(twice) > _SHOWN else "")
    message = f"{len(twice):,} of {len(test):,} test rows are {name} rows too: {shown}"
    if not allowed:
        raise DataError(
            f"{message}. Measured on them, what was seen would pass for what was learned; take them out of one file, or"
            " go on all the same with --allow-overlap"
        )
    logger.warning("%s; measured all the same, as asked", message)


def _digest_of_source(source: str, rows: Sequence[Row]) -> str:
    path = Path(source).expanduser()
    if path.is_file():
        return file_digest(path)
    total = hashlib.sha256()
    for row in rows:
        total.update(row.digest.encode())
    return total.hexdigest()
