"""Seconds of training until the loss of held-out rows is low enough, measured the same way on every side."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from race.work import IGNORED, Row

ROWS_AT_ONCE = 16


class Validation:
    """Measures held-out rows every few steps; the time that this takes is left out of the clock.

    Args:
        rows: the held-out rows.
        target: mean loss per label token, in nats, that ends the run.
        every: steps between measurements.
        pad_token_id: filler of short rows.
    """

    def __init__(self, rows: Sequence[Row], target: float, every: int, pad_token_id: int) -> None:
        self._rows = sorted(rows, key=lambda row: len(row.input_ids))
        self._target = target
        self._every = every
        self._pad = pad_token_id
        self._began = 0.0
        self._paused = 0.0
        self.curve: list[tuple[int, float, float]] = []
        """Steps, seconds of training, held-out loss."""

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def reached(self, model: nn.Module, step: int) -> bool:
        """Measure ``model`` if it is time to, and say whether the loss is low enough."""
        if step % self._every:
            return False
        now = time.perf_counter()
        loss = mean_loss(model, self._rows, self._pad)
        self.curve.append((step, now - self._began - self._paused, loss))
        self._paused += time.perf_counter() - now
        return loss <= self._target

    def report(self) -> dict[str, Any]:
        """Return the seconds it took, or None where the run ended before, and the curve."""
        done = [seconds for _, seconds, loss in self.curve if loss <= self._target]
        return {"target": self._target, "seconds": done[0] if done else None, "curve": self.curve}


@torch.no_grad()
def mean_loss(model: nn.Module, rows: Sequence[Row], pad_token_id: int) -> float:
    """Return the mean loss per label token of ``rows`` by the model's own forward pass, without dropout."""
    training, total, count = model.training, 0.0, 0
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model.eval()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[start : start + ROWS_AT_ONCE]
        width = max(len(row.input_ids) for row in batch)
        ids = torch.tensor([row.input_ids + [pad_token_id] * (width - len(row.input_ids)) for row in batch])
        mask = torch.tensor([[1] * len(row.input_ids) + [0] * (width - len(row.input_ids)) for row in batch])
        labels = torch.tensor([row.labels + [IGNORED] * (width - len(row.labels)) for row in batch])[:, 1:]
        ids, mask, labels = (tensor.to(device) for tensor in (ids, mask, labels))
        # Some programs give logits of their virtual tokens too, which come first.
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -width:-1][labels != IGNORED].float()
        total += float(F.cross_entropy(logits, labels[labels != IGNORED], reduction="sum"))
        count += len(logits)
    model.train(training)
    return total / count
