"""The project speaks of itself alone: no paths of one machine, no package index, no talk of how it was made."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each begins with a class of one letter, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    r"/[w]ork/|/[t]mp/dev|/[r]oot/|[p]ypi\.org|[p]ythonhosted\.org|[i]ndex-url|[w]orkplace"
    r"|\b[t]his session\b|[s]hared/(reference|design|data|spikes)|\b[i]ssues show\b",
    re.IGNORECASE,
)
LEFT_OUT = {"build", "dist", "outputs", "runs"}
BINARY = {".gguf", ".png", ".safetensors"}


def foreign_words(text: str) -> list[str]:
    """Return what a text says of the place it was written at."""
    return [match[0] for match in FOREIGN.finditer(text)]


def files() -> Iterator[Path]:
    """Yield the project's own text files; folders of tools and of results are left out."""
    for top in sorted(ROOT.iterdir()):
        hidden = top.name.startswith(".") and top.name not in (".ci", ".gitignore")
        if hidden or top.name in LEFT_OUT:
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            skipped = (
                path.suffix in BINARY
                or "__pycache__" in path.parts
                or any(part.startswith(".") for part in path.relative_to(top).parts)
            )
            if path.is_file() and not skipped:
                yield path


def test_no_file_speaks_of_another_place() -> None:
    found = {path.relative_to(ROOT).as_posix(): foreign_words(path.read_text(encoding="utf-8")) for path in files()}
    assert {name: words for name, words in found.items() if words} == {}
    assert len(found) > 100


@pytest.mark.parametrize(
    "pieces", [("see /w", "ork/main"), ("https://pyp", "i.org/simple"), ("in this ses", "sion we")]
)
def test_a_foreign_word_is_found(pieces: tuple[str, str]) -> None:
    assert foreign_words("".join(pieces))


@pytest.mark.parametrize("text", ["the framework/model", "a chat session", "/tmp/petune-demo"])
def test_an_innocent_text_passes(text: str) -> None:
    assert foreign_words(text) == []
