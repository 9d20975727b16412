"""The time of a checkpoint, found by writing one of some numbers."""

import tempfile
import time
from pathlib import Path

import torch

from petune.training import checkpoints
from petune.training.checkpoints import Checkpoint

_SAMPLE = 2**20
"""Most numbers that it is timed with."""


def save_seconds(count: int, folder: Path) -> float:
    """Return the time of a checkpoint with ``count`` learned numbers where ``folder`` lies."""
    some = torch.zeros(min(count, _SAMPLE))
    tensors = {"exp_avg": some, "exp_avg_sq": some.clone()}
    with tempfile.TemporaryDirectory(dir=folder) as own:
        began = time.perf_counter()
        checkpoints.save(Path(own), 0, Checkpoint({"values": some.clone()}, tensors, checkpoints.random_state(), {}))
        seconds = time.perf_counter() - began
    return seconds * max(1.0, count / some.numel())
