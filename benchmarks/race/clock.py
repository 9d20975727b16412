"""Time and memory of the steps of one process, read the same way on both sides.

On a card, memory is what its tensors take. Ends of steps are marks in its queue: reading the time there would make the
host wait for it.
"""

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


class StepClock:
    """Notes when the steps begin, when each ends, and how much memory was held.

    Args:
        device: where they run: cpu or cuda.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._ends: list[Any] = []
        self._loaded = 0
        self._peak_before = 0

    def begin(self) -> None:
        """The model is loaded, the first step comes next."""
        self._loaded, self._peak_before = resident_memory(self._device), peak_memory(self._device)
        self._ends = [self._now()]

    def step(self) -> None:
        """A step is done."""
        self._ends.append(self._now())

    def report(self) -> dict[str, Any]:
        """Return seconds since the start at which steps ended, and bytes of memory."""
        return {
            "ends": self._seconds(),
            "resident_before_steps": self._loaded,
            "peak_before_steps": self._peak_before,
            "peak": peak_memory(self._device),
        }

    def _now(self) -> Any:
        if self._device == "cpu":
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark

    def _seconds(self) -> list[float]:
        if self._device == "cpu":
            return [end - self._ends[0] for end in self._ends]
        torch.cuda.synchronize()
        return [self._ends[0].elapsed_time(end) / 1000 for end in self._ends]


def resident_memory(device: str = "cpu") -> int:
    """Return the bytes this process holds now (its peak where the system does not tell)."""
    if device == "cuda":
        return torch.cuda.memory_allocated()
    return _status_bytes("VmRSS") or _maximum()


def peak_memory(device: str = "cpu") -> int:
    """Return the most bytes this process has held.

    Linux hands ``ru_maxrss`` on from parent to child, so that a large parent would hide a small child; ``VmHWM`` starts
    anew with the program.
    """
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status_bytes("VmHWM") or _maximum()


def _status_bytes(key: str) -> int:
    if not _STATUS.is_file():
        return 0
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _maximum() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
