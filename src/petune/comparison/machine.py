"""The machine that a comparison runs on: what to know of it to read its figures, and how much it holds."""

import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from petune.backbone.precision import pick_device

_PACKAGES = ("torch", "transformers", "accelerate")
_CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where a container finds its limit: control groups of version 2, and of version 1."""
_SIDE = 512
_SECONDS = 0.1


def facts(device: str) -> dict[str, Any]:
    """Return what a reader of timings wants to know.

    Raises:
        ConfigError: no such device.
    """
    where = pick_device(device)
    known = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": memory(where),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }
    if where.type == "cuda":
        known["accelerator"] = torch.cuda.get_device_name(where)
    return known


def of_times(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the facts that times depend on; the size of memory differs from one start to the next."""
    return {name: value for name, value in found.items() if name not in ("system", "memory_bytes")}


def memory(device: torch.device) -> int:
    """Return the bytes there are for models: of the device, or of this machine or container."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text(encoding="ascii").strip() for path in _CONTAINER_LIMITS if path.is_file()]
    return min([total, *(int(limit) for limit in limits if limit.isdigit())])  # else it says max, for none


def multiplications_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many multiply-adds a second the device does in products of matrices; measured for a tenth of one."""
    x = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    done, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < _SECONDS or not done:
        # Reading a number back waits for the device.
        float((x @ x)[0, 0])
        done += 1
    return done * _SIDE**3 / seconds


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
