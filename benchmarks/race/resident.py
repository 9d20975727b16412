"""Making the memory of the steps tell apart from that of loading, the same way on every side."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from race.clock import peak_memory

_FORGET = Path("/proc/self/clear_refs")
_STRIDE = 1024
"""Every so many numbers one is read, so that each page of a mapped file is."""


def settle(model: nn.Module, device: str) -> int:
    """Read every page of the model's weights, begin the count of peak memory anew, and return the peak so far.

    Weights in a mapped file that nobody has read yet are no part of what a process holds, and would count as memory of
    the first step.
    """
    if device == "cuda":
        so_far = peak_memory(device)
        torch.cuda.reset_peak_memory_stats()
        return so_far
    for parameter in model.parameters():
        parameter.detach().flatten()[::_STRIDE].sum()
    so_far = peak_memory()
    with suppress(OSError):  # where the system cannot, the peak of loading stays in
        _FORGET.write_text("5", encoding="ascii")
    return so_far


def with_loading(report: dict[str, Any], peak_of_loading: int) -> dict[str, Any]:
    """Return a clock's report in which ``peak`` is of the whole process, and ``peak_of_steps`` of the steps alone."""
    steps = report["peak"]
    return {**report, "peak": max(steps, peak_of_loading), "peak_of_steps": steps}
