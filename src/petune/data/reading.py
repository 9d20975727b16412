"""Files and hub data sets to rows that know where they come from."""

import random
import re
from collections.abc import Callable
from pathlib import Path

from petune.data.hub import HUB_ID, read_hub
from petune.data.json_files import read_json, read_jsonl
from petune.data.json_parser import shortened
from petune.data.problems import Problems
from petune.data.reviews import SOURCES, read_reviews
from petune.data.rows import Rows
from petune.data.table_files import read_csv, read_parquet, read_tsv
from petune.errors import DataError, nearest

_READERS: dict[str, Callable[[Path, str, Problems], Rows]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
_SAMPLE = re.compile(r"(?P<path>.+)#(?P<count>\d+)")


def read_rows(
    source: str, *, seed: int = 42, splits: tuple[str, ...] = ("train",), problems: Problems | None = None
) -> Rows:
    """Read every row of a source.

    Args:
        source: a file, a hub data set id (``id``, ``id:config``, ``id@split``, ``id:config@split``), or the movie
            reviews (``demo``, ``demo@test``). ``#N`` at the end keeps a sample of N rows, in the order of the source.
        seed: seed of that sample.
        splits: of a hub id without ``@split``, the first of these that it has.
        problems: where to gather bad lines; None raises them at the end of the source.

    Raises:
        DataError: the source cannot be had, has no rows, or (``problems`` is None) has bad lines.
    """
    gathered = Problems() if problems is None else problems
    before = len(gathered)
    try:
        name, count = _without_sample(source)
        path = Path(name).expanduser()
        is_file = _is_file_name(name, path)
    except (OSError, RuntimeError) as error:  # a name that is too long, or of a user who is not there
        raise DataError(f"{shortened(source)}: no such file ({error}); check the path") from error
    if name in SOURCES:
        rows = read_reviews(name)
    else:
        rows = _read_file(path, name, gathered) if is_file else read_hub(name, splits)
    if problems is None:
        gathered.raise_if_any()
    if not rows.rows and len(gathered) == before:
        raise DataError(f"{source}: no rows; give a source with at least one")
    return rows if count is None else _sample(rows, count, seed, found_bad_rows=len(gathered) > before)


def _without_sample(source: str) -> tuple[str, int | None]:
    match = _SAMPLE.fullmatch(source)
    if match is None or Path(source).expanduser().exists():
        return source, None
    return match["path"], int(match["count"])


def _sample(rows: Rows, count: int, seed: int, *, found_bad_rows: bool) -> Rows:
    if found_bad_rows:
        return rows
    if not 0 < count <= len(rows.rows):
        raise DataError(
            f"{rows.source}#{count} asks for {count:,} rows of {len(rows.rows):,}; "
            f"give a number from 1 to {len(rows.rows):,}, or leave '#{count}' out"
        )
    rng = random.Random(f"sample:{seed}")  # noqa: S311 - a sample, not a secret
    return rows.select(sorted(rng.sample(range(len(rows.rows)), count)))


def _is_file_name(name: str, path: Path) -> bool:
    looks_local = name.startswith((".", "/", "~")) or path.suffix.lower() in _READERS
    return path.exists() or looks_local or HUB_ID.fullmatch(name) is None


def _read_file(path: Path, name: str, problems: Problems) -> Rows:
    kinds = ", ".join(sorted(_READERS))
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() in _READERS)
        choice = f"it holds {', '.join(inside[:5])}" if inside else f"it holds no {kinds} file"
        raise DataError(f"{name} is a folder, and one file is needed; {choice}")
    if not path.exists():
        folder = path.parent
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        where = "" if folder.is_dir() else f" (nor is there a folder {folder})"
        raise DataError(
            f"there is no file {name}{where}.{nearest(path.name, names)} Give a {kinds} file or a hub data set id"
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{name}: files named '{path.suffix}' cannot be read; give a {kinds} file")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{name} is empty (0 bytes); give a file with at least one row")
        return reader(path, name, problems)
    except OSError as error:
        raise DataError(
            f"{name} cannot be read: {error.strerror or error}; check its permissions and the disk"
        ) from error
