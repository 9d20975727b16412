from pathlib import Path

import pytest

from petune.backbone import processor

AMD, INTEL, ARM = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n", "CPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("cpuinfo", "has", "fast"),
    [
        (AMD + "flags\t\t: fpu avx512f avx512_bf16\n", True, True),
        (INTEL + "flags\t\t: fpu avx512f avx512_bf16\n", True, False),
        (INTEL + "flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n", True, True),
        (INTEL + "flags\t\t: fpu avx2\n", False, False),
        (ARM + "Features\t: fp asimd bf16\n", True, True),
        ("model name\t: avx512_bf16\nflags\t\t: fpu avx2\n", False, False),
        ("flags\t\t: fpu avx2\n\nflags\t\t: fpu amx_bf16\n", False, False),
        ("", False, False),
    ],
)
def test_bfloat16(cpuinfo: str, has: bool, fast: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor.has_bfloat16() == has
    assert processor.has_fast_bfloat16() == fast


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    assert processor.traits(tmp_path / "absent") == frozenset()
