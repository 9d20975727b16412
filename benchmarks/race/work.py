"""The folder that both sides read: model, token ids, order of the rows, and the adapter they start from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from race.settings import Settings

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Row:
    """One training row as token ids; ``labels`` holds -100 where nothing is learned."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Work:
    """Paths of the work, and readers of its files.

    Args:
        folder: where everything lies.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The base model in bfloat16: a plain transformers folder."""
        return self.folder / "model"

    @property
    def start(self) -> Path:
        """The adapter that both sides start from, in HF PEFT's layout: A random, B zero."""
        return self.folder / "start"

    @property
    def train_text(self) -> Path:
        """The training reviews (JSON Lines)."""
        return self.folder / "train.jsonl"

    @property
    def test_text(self) -> Path:
        """The held-out reviews (JSON Lines)."""
        return self.folder / "test.jsonl"

    @property
    def tokens(self) -> Path:
        """The training reviews as token ids and labels (JSON Lines)."""
        return self.folder / "tokens.jsonl"

    @property
    def plan(self) -> Path:
        """The row indices of each optimiser step (JSON)."""
        return self.folder / "plan.json"

    @property
    def start_tensors(self) -> Path:
        """The tensors that petune's adapter starts from, by their names there: what an adapter file leaves out too."""
        return self.folder / "start_tensors.safetensors"

    @property
    def test_tokens(self) -> Path:
        """The held-out rows as token ids and labels (JSON Lines)."""
        return self.folder / "test_tokens.jsonl"

    @property
    def settings(self) -> Settings:
        """The settings of the race."""
        return Settings.read(self.folder / "settings.json")

    def write_settings(self, settings: Settings) -> None:
        """Write the settings for the workers."""
        settings.write(self.folder / "settings.json")

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Write the token ids and labels."""
        _write(self.tokens, rows)

    def read_rows(self) -> list[Row]:
        """Return the token ids and labels."""
        return _read(self.tokens)

    def write_test_rows(self, rows: Sequence[Row]) -> None:
        """Write the token ids and labels of the held-out rows."""
        _write(self.test_tokens, rows)

    def read_test_rows(self) -> list[Row]:
        """Return the token ids and labels of the held-out rows."""
        return _read(self.test_tokens)

    def write_plan(self, steps: Sequence[Sequence[int]]) -> None:
        """Write the row indices of each step."""
        self.plan.write_text(json.dumps([list(step) for step in steps]), encoding="utf-8")

    def read_plan(self) -> list[list[int]]:
        """Return the row indices of each step."""
        steps: list[list[int]] = json.loads(self.plan.read_text(encoding="utf-8"))
        return steps

    def tokens_of_steps(self) -> list[int]:
        """Return how many tokens, padding not counted, each step of the plan holds."""
        lengths = [len(row.input_ids) for row in self.read_rows()]
        return [sum(lengths[row] for row in step) for step in self.read_plan()]

    def describe(self) -> dict[str, int | str]:
        """Return what the work is, with the digest of the file of token ids."""
        rows = self.read_rows()
        return {
            "rows": len(rows),
            "tokens": sum(len(row.input_ids) for row in rows),
            "label_tokens": sum(label != IGNORED for row in rows for label in row.labels[1:]),
            "longest_row": max(len(row.input_ids) for row in rows),
            "steps_of_an_epoch": self.settings.epoch_steps,
            "tokens_sha256": hashlib.sha256(self.tokens.read_bytes()).hexdigest(),
        }


def _write(path: Path, rows: Sequence[Row]) -> None:
    lines = (json.dumps({"input_ids": row.input_ids, "labels": row.labels}) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


def _read(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
