from pathlib import Path

import pytest
import torch

from petune.comparison import machine
from petune.errors import ConfigError


def test_times_depend_on_more_than_the_size_of_memory() -> None:
    found = machine.facts("cpu")
    assert machine.of_times({**found, "memory_bytes": 1}) == machine.of_times(found)
    assert machine.of_times({**found, "threads": 99}) != machine.of_times(found)


def test_facts_are_plain_values() -> None:
    found = machine.facts("cpu")
    assert {"system", "processor", "cores", "threads", "memory_bytes", "torch"} <= found.keys()
    assert found["torch"] == torch.__version__
    with pytest.raises(ConfigError, match="device 'moon' is unknown"):
        machine.facts("moon")


def test_a_container_s_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(path.is_relative_to("/sys/fs/cgroup") for path in machine._CONTAINER_LIMITS)
    device, second, first = torch.device("cpu"), tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(machine, "_CONTAINER_LIMITS", (second, first))
    whole = machine.memory(device)
    assert whole > 2**28
    second.write_text("max\n")
    assert machine.memory(device) == whole
    second.write_text("1000000\n")
    assert machine.memory(device) == 1_000_000
    second.unlink()
    first.write_text("9223372036854771712\n")  # what version 1 says where there is no limit
    assert machine.memory(device) == whole
    first.write_text("2000000\n")
    assert machine.memory(device) == 2_000_000


def test_speed_is_measured() -> None:
    assert machine.multiplications_per_second(torch.device("cpu"), torch.float32) > 1e7
