from pathlib import Path

import pytest
import torch

from petune.comparison import machine
from petune.errors import ConfigError


def test_facts_are_plain_values() -> None:
    found = machine.facts("cpu")
    assert {"system", "processor", "cores", "threads", "memory_bytes", "torch"} <= found.keys()
    assert found["torch"] == torch.__version__
    with pytest.raises(ConfigError, match="device 'moon' is unknown"):
        machine.facts("moon")


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, file = torch.device("cpu"), tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CONTAINER_LIMIT", file)
    whole = machine.memory(device)
    assert whole > 2**28
    file.write_text("max\n")
    assert machine.memory(device) == whole
    file.write_text("1000000\n")
    assert machine.memory(device) == 1_000_000


def test_speed_is_measured() -> None:
    assert machine.multiplications_per_second(torch.device("cpu"), torch.float32) > 1e7
