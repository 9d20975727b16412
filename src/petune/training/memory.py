"""The most memory a run has held."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on CUDA by tensors, on CPU by the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_of_process()


def _peak_of_process() -> int:
    # Linux hands ru_maxrss on from parent to child, so a large parent would stand for a small child; VmHWM does not.
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # the kernel's kB are KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
