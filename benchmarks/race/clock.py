"""Time and memory of the steps of one process, read the same way on both sides."""

import resource
import sys
import time
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")


class StepClock:
    """Notes when the steps begin, when each ends, and how much memory was held."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._loaded = 0
        self._peak_before = 0

    def begin(self) -> None:
        """The model is loaded, the first step comes next."""
        self._loaded, self._peak_before = resident_memory(), peak_memory()
        self._ends = [time.perf_counter()]

    def step(self) -> None:
        """A step is done."""
        self._ends.append(time.perf_counter())

    def report(self) -> dict[str, Any]:
        """Return seconds since the start at which steps ended, and bytes of memory."""
        return {
            "ends": [end - self._ends[0] for end in self._ends],
            "resident_before_steps": self._loaded,
            "peak_before_steps": self._peak_before,
            "peak": peak_memory(),
        }


def resident_memory() -> int:
    """Return the bytes this process holds now (its peak where the system does not tell)."""
    return _status_bytes("VmRSS") or _maximum()


def peak_memory() -> int:
    """Return the most bytes this process has held.

    Linux hands ``ru_maxrss`` on from parent to child, so that a large parent would hide a small child; ``VmHWM`` starts
    anew with the program.
    """
    return _status_bytes("VmHWM") or _maximum()


def _status_bytes(key: str) -> int:
    if not _STATUS.is_file():
        return 0
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _maximum() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
