"""The works, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from petune.backbone.task_names import TaskName
from petune.data.reviews import movie_reviews, prompt_format
from works.entities import KINDS, peoples_daily
from works.minilm import minilm


class Rows(Protocol):
    """Files of rows to learn and of rows to be measured on."""

    @property
    def train(self) -> Path:
        """What is learned."""
        ...

    @property
    def test(self) -> Path:
        """What is held out."""
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """Something to learn."""

    title: str
    model: Callable[[], str]
    """Fetches the base, and returns its name or folder."""
    rows: Callable[[int, int], Rows]
    """Returns so many rows to learn and so many to be measured on."""
    metric: str
    epochs: int
    dtype: str
    """Precision of the base unless another is asked for."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """How rows are read, where that is not plain."""
    task: TaskName = "causal_lm"
    labels: tuple[str, ...] = ()
    """Classes of the head; a head starts at random, anew with each seed."""
    results: str = ""
    """File of the results."""


WORKS: Mapping[str, Work] = {
    "reviews": Work(
        title="SmolLM2 on movie reviews, the label written as a word",
        model=lambda: "demo",
        rows=movie_reviews,
        metric="accuracy",
        epochs=1,
        dtype="bfloat16",
        reading=prompt_format(),
        results="learning.json",
    ),
    "encoder": Work(
        title="MiniLM on movie reviews, with a head",
        model=lambda: str(minilm()),
        rows=movie_reviews,
        metric="accuracy",
        epochs=3,
        dtype="float32",
        task="sequence_classification",
        labels=("negative", "positive"),
        results="learning_encoder.json",
    ),
    "entities": Work(
        title="MiniLM on entities of the People's Daily, with a head for each word",
        model=lambda: str(minilm()),
        rows=peoples_daily,
        metric="entity_f1",
        epochs=3,
        dtype="float32",
        task="token_classification",
        labels=("O", *sorted(["I-PER", *(f"B-{kind}" for kind in KINDS.values())])),
        results="learning_entities.json",
    ),
}
