"""Peak memory is that of this process, not of the one that started it."""

import ctypes
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base
from petune.training import memory
from petune.training.memory import peak_memory, reset_peak
from petune.training.run import train

CPU = torch.device("cpu")
MIB = 2**20


def test_the_peak_follows_what_is_held_and_stays() -> None:
    before = peak_memory(CPU)
    block = bytearray(before + 64 * MIB)
    block[:: 2**12] = b"x" * len(range(0, len(block), 2**12))
    peak = peak_memory(CPU)
    del block
    assert peak >= before + 64 * MIB
    assert peak_memory(CPU) == pytest.approx(peak, rel=0.01)  # the kernel counts roughly


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems start the count anew by themselves")
def test_a_large_parent_does_not_count() -> None:
    program = (
        "import subprocess, sys\n"
        "block = b'x' * (768 * 2**20)\n"  # larger than what importing torch takes
        "child = 'import sys; from petune.training.memory import _peak_of_process; print(_peak_of_process())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True, check=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 10 * MIB < int(done.stdout) < 768 * MIB


def test_without_proc_the_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATUS", Path("/nowhere"))
    unit = 1 if sys.platform == "darwin" else 1024
    assert peak_memory(CPU) == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, rel=0.01)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a process begin its count anew")
def test_the_peak_may_begin_anew() -> None:
    block = bytearray(128 * MIB)
    block[:: 2**12] = b"x" * len(range(0, len(block), 2**12))
    high = peak_memory(CPU)
    del block
    reset_peak(CPU)
    assert peak_memory(CPU) < high - 64 * MIB


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux lets a process begin its count anew")
def test_what_was_held_before_a_training_is_no_memory_of_it(
    tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    base = tiny_base()
    block = bytearray(256 * MIB)
    block[:: 2**12] = b"x" * len(range(0, len(block), 2**12))
    high = peak_memory(CPU)
    del block
    result = train(keys(max_steps=1), base=base, estimate=True)
    assert result.peak_memory < high - 128 * MIB
    assert result.estimate is not None
    assert result.estimate.memory < high - 128 * MIB


def test_where_the_peak_cannot_begin_anew_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_RESET", Path("/nowhere"))
    high = peak_memory(CPU)
    reset_peak(CPU)
    assert peak_memory(CPU) >= high * 0.99


def _new_pages(count: int) -> int:
    """Return how many pages the kernel hands out for so many numbers that are freed at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(count)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library keeps memory its own way")
def test_what_is_freed_is_used_again() -> None:
    pages = 4 * 64 * MIB // resource.getpagesize()
    with memory.freed_memory_kept(CPU):
        _new_pages(80 * MIB)
        assert _new_pages(64 * MIB) < pages / 10
    _new_pages(80 * MIB)
    assert _new_pages(64 * MIB) > pages / 2
