"""The timing of attention runs and compares the same thing."""

import attention
import pytest
import torch


def test_both_sides_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(attention, "TOKENS", 32)
    monkeypatch.setattr(attention, "LENGTHS", (8,))
    threads = torch.get_num_threads()
    assert attention.main(["--threads", str(threads), "--repeats", "1"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "4 x 8" in line]
    assert [row[1].strip() for row in rows] == ["bfloat16", "float32"]
    assert all(float(row[5]) > 0 for row in rows)
