from pathlib import Path
from types import SimpleNamespace

import pytest

from petune.training import checkpoints, save_time
from petune.training.save_time import save_seconds


def test_a_checkpoint_is_written_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = [], checkpoints.save

    def noted(output: Path, step: int, checkpoint: checkpoints.Checkpoint) -> Path:
        folder = save(output, step, checkpoint)
        written.append(sum(file.stat().st_size for file in folder.rglob("*")))
        return folder

    monkeypatch.setattr(checkpoints, "save", noted)
    assert save_seconds(1000, tmp_path) > 0
    assert written[0] > 3 * 4 * 1000, "values and both moments"
    assert not list(tmp_path.iterdir())


def test_a_large_one_is_timed_by_a_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.0, 1.0, 3.0])
    monkeypatch.setattr(save_time, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert save_seconds(100, tmp_path) == 2.0
    assert save_seconds(5 * save_time._SAMPLE, tmp_path) == 10.0
