"""The time of an optimiser step, found on numbers that stand for those that are learned."""

import torch
from torch import nn
from torch.optim import AdamW

from petune.training.stopwatch import seconds_of

_SAMPLE = 2**20
"""Most numbers that it is timed with."""


def update_seconds(count: int, device: torch.device) -> float:
    """Return the time of clipping and updating ``count`` numbers."""
    parameter = nn.Parameter(torch.zeros(min(count, _SAMPLE), device=device))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = AdamW([parameter], fused=True)
    optimizer.step()

    def update() -> None:
        nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()

    return seconds_of(update, device) * count / parameter.numel()
