"""The time of an optimiser step."""

import pytest
import torch

from petune.training import update_time
from petune.training.update_time import update_seconds


def test_what_is_learned_beyond_the_sample_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_time, "_SAMPLE", 8)
    monkeypatch.setattr(update_time, "seconds_of", lambda run, device: run() or 2.0)
    assert update_seconds(4, torch.device("cpu")) == 2.0
    assert update_seconds(32, torch.device("cpu")) == 8.0
