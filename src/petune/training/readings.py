"""What is read off the device in a round of steps: losses and norms of gradients, all of them at once.

A number that the host reads makes it wait for all that it has asked for, while the device then waits for more. So
losses stay there until the backward passes of all adapters are asked for. They are read before any step is taken: one
whose numbers are not finite stops its adapter, and changes nothing.
"""

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from petune.training.packing import NextStep, Place


def clipped_and_read(
    steps: Sequence[NextStep], batches: Sequence[Sequence[Place]], losses: Sequence[Tensor]
) -> list[float]:
    """Clip the gradients of each step, note the losses of its rows, and return the norms before clipping.

    Args:
        steps: the next step of each adapter, gradients ready.
        batches: their rows, as they went through the base.
        losses: the loss [B] of each row of each batch.
    """
    device = losses[0].device
    norms = torch.stack([step.run.clip().to(device) for step in steps])
    read = iter(torch.cat([*losses, norms]).tolist())
    for batch in batches:
        _note(batch, list(islice(read, len(batch))))
    return list(read)


def _note(batch: Sequence[Place], losses: Sequence[float]) -> None:
    """Add the losses to those of their steps; the first batch whose loss is not finite stops its adapter."""
    shares: dict[int, float] = {}
    for (step, _), loss in zip(batch, losses, strict=True):
        shares[id(step)] = shares.get(id(step), 0.0) + loss / step.labels
    for step in {id(step): step for step, _ in batch}.values():
        share = shares[id(step)]
        step.loss += share
        if not math.isfinite(share) and step.run.error is None:
            rows = [row for owner, row in batch if owner is step]
            step.run.error = step.run.diverged(f"the loss is {share}", rows)
