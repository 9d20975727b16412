"""Short dialogues in Chinese and English, from the package ``chatterbot-corpus`` (BSD licence).

The package is fetched once into petune's cache and checked against its pinned digest. Only topics that both languages
have are read.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import yaml

from petune.backbone.pinned import ArtefactFolder, fetch_folder

Language = Literal["chinese", "english"]

TOPICS = (
    "ai", "botprofile", "conversations", "emotion", "food", "gossip", "greetings", "history", "humor", "literature",
    "money", "movies", "politics", "psychology", "science", "sports", "trivia",
)  # fmt: skip
LONGEST = 80
"""Most characters of a turn."""


def corpus(language: Language) -> ArtefactFolder:
    """Return what to fetch for a language."""
    return ArtefactFolder(
        package="chatterbot-corpus",
        version="1.3.3",
        file="chatterbot_corpus-1.3.3-py2.py3-none-any.whl",
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        folder=f"chatterbot_corpus/data/{language}",
        apart=language,
        size=5_000_000,
        title=f"dialogues in {language.capitalize()}",
    )


def dialogues(language: Language) -> dict[str, list[dict[str, str]]]:
    """Return rows with ``prompt`` and ``completion`` by part (train, development, test), always the same ones.

    All answers to one question are in one part, so that no question of the test was learned.

    Raises:
        BaseModelError, ArtifactError, ResourceError: they cannot be fetched.
    """
    folder = fetch_folder(corpus(language))
    pages = [yaml.safe_load((folder / f"{topic}.yml").read_text(encoding="utf-8")) for topic in TOPICS]
    rows = turns([said for page in pages for said in page["conversations"]])
    questions = list(dict.fromkeys(row["prompt"].casefold() for row in rows))
    random.Random("dialogues").shuffle(questions)  # noqa: S311 - a split, not a secret
    part = {question: _part(i, len(questions)) for i, question in enumerate(questions)}
    random.Random("rows").shuffle(rows)  # noqa: S311
    return {
        name: [row for row in rows if part[row["prompt"].casefold()] == name]
        for name in ("train", "development", "test")
    }


def turns(conversations: Sequence[Sequence[Any]]) -> list[dict[str, str]]:
    """Return each turn with the one that it answers; equal pairs once, long turns left out."""
    pairs = (
        (str(asked).strip(), str(said).strip())
        for conversation in conversations
        for asked, said in pairwise(conversation)
    )
    distinct = dict.fromkeys(pair for pair in pairs if all(pair) and max(map(len, pair)) <= LONGEST)
    return [{"prompt": asked, "completion": said} for asked, said in distinct]


def _part(index: int, count: int) -> str:
    share = index / count
    return "train" if share < 0.6 else "development" if share < 0.7 else "test"
