"""Hub data sets to rows."""

import re
from typing import Any

from petune.data.class_names import from_features
from petune.data.rows import Rows
from petune.errors import DataError

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
HUB_ID = re.compile(rf"(?P<id>{_NAME}(/{_NAME})?)(:(?P<config>[\w.-]+))?(@(?P<split>[\w.-]+))?", re.ASCII)
"""``id``, ``id:config``, ``id@split`` or ``id:config@split``."""


def read_hub(source: str, splits: tuple[str, ...]) -> Rows:
    """Read one split of a hub data set; no code of the data set is run.

    Args:
        source: matched by :data:`HUB_ID`.
        splits: where the source names no split, the first of these that the data set has.

    Raises:
        DataError: the data set, its configuration or its split cannot be had.
    """
    match = HUB_ID.fullmatch(source)
    assert match is not None, source
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        found = load_dataset(match["id"], match["config"])
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(
            f"no local file is called '{source}', and as a hub data set it cannot be had: "
            f"{reason.rstrip('.')}; check the name, the network and HF_HUB_OFFLINE, or give a .jsonl, "
            ".json, .csv or .parquet file"
        ) from error
    return from_splits(source, found, splits, match["id"], match["split"])


def from_splits(source: str, found: Any, splits: tuple[str, ...], name: str, asked: str | None) -> Rows:
    """Return the rows of the split that was asked for, else of the first of ``splits`` that there is.

    Raises:
        DataError: there is no such split.
    """
    choices = splits if asked is None else (asked,)
    split = next((split for split in choices if split in found), None)
    if split is None:
        raise DataError(
            f"{source}: no split {' or '.join(repr(choice) for choice in choices)}; it has "
            f"{', '.join(found)}: name one, as in {name}@{next(iter(found), 'train')}"
        )
    dataset = found[split]
    convert = from_features(dataset.features)
    rows = [convert(row) for row in dataset]
    return Rows(source, f"{name}[{split}]:", tuple(dataset.column_names), rows, range(1, len(rows) + 1))
