"""How much memory is held, and the most that was."""

import ctypes
import gc
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Numbers of glibc's settings: free bytes that it keeps, size of what it keeps nothing of, how many such things."""
_LARGE = 2**17
_USUAL_MOST = 2**25
_USUAL_MAPPINGS = 2**16
_ALL = 2**31 - 1


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held so far: on CUDA by tensors, on CPU by the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_of_process()


def held_memory(device: torch.device) -> int:
    """Return the bytes held now: on CUDA by tensors, on CPU by the process (its peak where there is no Linux)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _told_by_kernel("VmRSS") or _peak_of_process()


def give_back(device: torch.device) -> None:
    """Give memory that nothing uses back to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed memory unless told not to
        if trim is not None:
            trim(0)


@contextmanager
def large_tensors_given_back(device: torch.device) -> Iterator[None]:
    """Let the C library give large tensors back to the system as soon as they are freed, inside the block.

    Otherwise glibc keeps them for reuse, and what fits badly into what was freed makes the process grow. New pages cost
    time, on a virtual machine half as much again, so this is for runs that have to be small. Without glibc nothing
    happens.
    """
    with _tuned(device, {_MMAP_THRESHOLD: _LARGE}):
        yield


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Let the C library keep what is freed for reuse, inside the block.

    Otherwise glibc gives gradients as large as a base's back to the system after each step, and the next step waits for
    pages that the kernel has to clear first. Without glibc nothing happens.
    """
    try:
        with _tuned(device, {_MMAP_MAX: 0, _TRIM_THRESHOLD: _ALL}):
            yield
    finally:
        give_back(device)


@contextmanager
def _tuned(device: torch.device, settings: Mapping[int, int]) -> Iterator[None]:
    """Let glibc have other settings in the block, and then those that it comes to by itself after large tensors."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if tune is None or device.type != "cpu":
        yield
        return
    for name, value in settings.items():
        tune(name, value)
    try:
        yield
    finally:
        # The first that is set ends its own choice of thresholds, and that is twice the one for the other.
        tune(_MMAP_MAX, _USUAL_MAPPINGS)
        tune(_MMAP_THRESHOLD, _USUAL_MOST)
        tune(_TRIM_THRESHOLD, 2 * _USUAL_MOST)


def reset_peak(device: torch.device) -> None:
    """Give unused memory back and let the peak begin anew, so that runs of one process can be told apart."""
    give_back(device)
    restart_peak(device)


def restart_peak(device: torch.device) -> None:
    """Let the peak begin anew with what is held now.

    On the CPU that needs Linux; elsewhere the peak stays that of the whole process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text(_RESET_PEAK, encoding="ascii")


def _told_by_kernel(name: str) -> int | None:
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024  # the kernel's kB are KiB
    return None


def _peak_of_process() -> int:
    # Linux hands ru_maxrss on from parent to child, so a large parent would stand for a small child; VmHWM does not.
    told = _told_by_kernel("VmHWM")
    if told is not None:
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
