"""Tiny bases on disk and the rows of each task."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

from petune.backbone.base import Base
from petune.backbone.loading import quiet

REVIEWS = [
    {"text": f"{'good' if i % 2 else 'bad'} film {i % 5}", "label": "pos" if i % 2 else "neg"} for i in range(24)
]
ENTITIES = [
    {"tokens": ["Anna", "lives", "in", "Rome"], "tags": ["B-PER", "O", "O", "B-LOC"]}
    if i % 2
    else {"tokens": ["Bob", "eats"], "tags": ["B-PER", "O"]}
    for i in range(12)
]
QUESTIONS = [
    {
        "question": "who?",
        "context": f"In {i} it was Anna who came.",
        "answers": {"text": ["Anna"], "answer_start": [13]},
    }
    for i in range(10, 20)
]
ROWS = {"reviews": REVIEWS, "entities": ENTITIES, "questions": QUESTIONS}


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    """Write rows: ``rows("reviews")``, or ``rows([...])``; returns the path of the file."""

    def write(what: str | list[dict[str, Any]], name: str = "rows") -> str:
        path = tmp_path / f"{name}.jsonl"
        content = ROWS[what] if isinstance(what, str) else what
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def base_folder(tmp_path: Path, tiny_base: Callable[..., Base]) -> Callable[..., str]:
    """Save a tiny base as it came from pretraining: ``base_folder("bert")``; returns the folder."""

    def save(architecture: str) -> str:
        base = tiny_base(architecture)
        folder = tmp_path / architecture
        with quiet():
            model: PreTrainedModel = base.model
            model.save_pretrained(folder)
            base.tokenizer.save_pretrained(folder)
        return str(folder)

    return save
