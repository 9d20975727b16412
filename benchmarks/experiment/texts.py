"""What the parts are trained on: the rows, the new tokens and the encoder, in the folder that the recipes name."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from works.chinese_reviews import chinese_reviews
from works.dialogues import dialogues
from works.entities import peoples_daily
from works.minilm import minilm

from experiment.vocabulary import per_character, worthwhile
from petune.backbone.tokenizer import load_tokenizer
from petune.data.reviews import movie_reviews

FOLDER = Path("outputs/experiment/data")
"""Where the recipes look, from the folder in which the command runs."""

NEW_TOKENS = 400
REVIEWS = {"train": 600, "development": 40, "test": 300}
SENTENCES = (800, 300)


def prepare() -> dict[str, Any]:
    """Write what the recipes name, where it is not there yet; return what is to be told of it.

    Raises:
        BaseModelError, ArtifactError, ResourceError: something cannot be fetched.
    """
    facts = FOLDER / "facts.json"
    if not facts.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        chinese = _dialogues()
        _reviews()
        sentences = peoples_daily(*SENTENCES)
        _write("entities", {"train": _read(sentences.train), "test": _read(sentences.test)})
        _link(FOLDER / "minilm", minilm())
        facts.write_text(json.dumps(_vocabulary(chinese), indent=2) + "\n", encoding="utf-8")
    found: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))
    return found


def _dialogues() -> dict[str, list[dict[str, str]]]:
    parts = {language: dialogues(language) for language in ("chinese", "english")}
    for language, rows in parts.items():
        _write(f"dialogues_{language}", rows)
    return parts["chinese"]


def _reviews() -> None:
    """Write reviews of both languages in three parts."""
    train, development, test = REVIEWS.values()
    movies = movie_reviews(train + development, test)
    english = [*_read(movies.train), *_read(movies.test)]
    for language, rows in (("chinese", chinese_reviews(sum(REVIEWS.values()))), ("english", english)):
        parts = {}
        for part, count in REVIEWS.items():
            parts[part], rows = rows[:count], rows[count:]
        _write(f"reviews_{language}", parts)


def _vocabulary(parts: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, Any]:
    """Learn the new tokens from the training rows, and tell what they save on the test rows."""
    tokenizer, _ = load_tokenizer("demo")

    def pieces(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    said = {part: [text for row in rows for text in row.values()] for part, rows in parts.items()}
    reviews = [row["text"] for row in _read(FOLDER / "reviews_chinese_train.jsonl")]
    tokens = worthwhile([*said["train"], *reviews], pieces, NEW_TOKENS)
    (FOLDER / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    before = per_character(said["test"], pieces)
    tokenizer.add_tokens(tokens)
    return {
        "new_tokens": len(tokens),
        "first_tokens": tokens[:12],
        "tokens_per_character": before,
        "tokens_per_character_extended": per_character(said["test"], pieces),
    }


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(name: str, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the parts of a text; a row that an earlier part has is left out."""
    seen: set[str] = set()
    for part, rows in parts.items():
        lines = {json.dumps(row, ensure_ascii=False): " ".join(_said(row)).casefold() for row in rows}
        new = [line for line, said in lines.items() if said not in seen]
        seen.update(lines.values())
        (FOLDER / f"{name}_{part}.jsonl").write_text("".join(f"{line}\n" for line in new), encoding="utf-8")


def _said(row: Mapping[str, Any]) -> list[str]:
    """Return the words that are not answers."""
    text = row.get("tokens") or [row.get("text") or row["prompt"]]
    return " ".join(text).split()


def _link(path: Path, target: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)
