"""A tiny training task: a dozen rows of different lengths, all of them distinct."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune import methods
from petune.training.events import Silent, Step

WORDS = ("red", "green", "blue", "amber", "violet", "teal", "ochre", "navy", "plum", "jade", "rust", "lime", "sand")


@pytest.fixture
def rows() -> list[dict[str, str]]:
    """Thirteen rows of a prompt and a completion."""
    return [{"prompt": f"{w}{'!' * (i % 4)} is", "completion": f" {w[::-1]}{i}"} for i, w in enumerate(WORDS)]


@pytest.fixture
def keys(tmp_path: Path, rows: list[dict[str, str]], write_rows: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """The keys of a short run, four steps an epoch: ``keys(num_train_epochs=1, ...)``."""
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "eval.jsonl", rows[:3])

    def make(**changes: Any) -> dict[str, Any]:
        defaults = {
            "data": str(tmp_path / "train.jsonl"),
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
            "logging_steps": 1,
        }
        return {**defaults, **changes}

    return make


@pytest.fixture(params=[name for name in methods.names() if methods.get(name).trains])
def method(request: pytest.FixtureRequest) -> str:
    """Name of a method that trains."""
    return str(request.param)


class SignalAt(Silent):
    """Sends this process a signal, as a scheduler or Ctrl-C does, once step ``step`` is done."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self._step = step
        self._number = number

    def stepped(self, step: Step) -> None:
        """Send it."""
        if step.step == self._step:
            os.kill(os.getpid(), self._number)


@pytest.fixture
def signal_at() -> type[SignalAt]:
    """The listener class that sends a signal."""
    return SignalAt
