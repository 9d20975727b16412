"""The most memory a run has held."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on CUDA by tensors, on CPU by the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_of_process()


def reset_peak(device: torch.device) -> None:
    """Give unused memory back and let the peak begin anew, so that runs of one process can be told apart.

    On the CPU that needs Linux; elsewhere the peak stays that of the whole process.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed memory unless told not to
        if trim is not None:
            trim(0)
        _RESET.write_text(_RESET_PEAK, encoding="ascii")


def _peak_of_process() -> int:
    # Linux hands ru_maxrss on from parent to child, so a large parent would stand for a small child; VmHWM does not.
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024  # the kernel's kB are KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
