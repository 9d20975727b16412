"""What Linux tells of the CPU."""

import functools
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

_TOLD_IN = {"vendor_id", "flags", "Features"}


def has_bfloat16() -> bool:
    """Say whether the CPU has instructions for products in bfloat16."""
    return not traits(CPUINFO).isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def has_fast_bfloat16() -> bool:
    """Say whether the CPU multiplies faster in bfloat16 than in float32.

    Intel's AVX-512 instructions for bfloat16 are no faster than those for float32, AMD's are twice as fast.
    """
    told = traits(CPUINFO)
    return has_bfloat16() and not ("GenuineIntel" in told and "amx_bf16" not in told)


@functools.lru_cache
def traits(cpuinfo: Path) -> frozenset[str]:
    """Return the CPU's vendor and instruction sets (``flags`` on x86, ``Features`` on ARM); none without Linux."""
    if not cpuinfo.is_file():
        return frozenset()
    first_cpu = cpuinfo.read_text(encoding="utf-8", errors="replace").strip().partition("\n\n")[0]
    told = (line.partition(":") for line in first_cpu.splitlines())
    return frozenset(trait for name, _, value in told if name.strip() in _TOLD_IN for trait in value.split())
