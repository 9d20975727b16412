"""Checkpoints: whole or absent, checked when read, rotated without loss."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from petune.checkpoint import durable
from petune.errors import CheckpointError, ResourceError
from petune.training import checkpoints
from petune.training.checkpoints import Checkpoint, load, newest, rotate, save, steps_in

FILES = (checkpoints.MASTERS, checkpoints.OPTIMIZER, checkpoints.RANDOM, checkpoints.STATE, checkpoints.DIGESTS)


@pytest.fixture
def content() -> Checkpoint:
    return Checkpoint(
        {"a": torch.arange(6.0).view(2, 3).t()}, {"0.step": torch.tensor(3.0)}, checkpoints.random_state(), {"x": [0.1]}
    )


def test_saved_and_loaded_is_the_same(tmp_path: Path, content: Checkpoint) -> None:
    folder = save(tmp_path, 12, content)
    assert folder == tmp_path / "checkpoint-12"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    again = load(folder)
    assert torch.equal(again.masters["a"], content.masters["a"])
    assert again.optimizer["0.step"] == 3
    assert again.state == {"x": [0.1]}
    drawn = torch.rand(3)
    checkpoints.set_random_state(again.random)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["lost", "empty", "cut", "flipped", "swapped"])
def test_any_damage_is_found(file: str, damage: str, tmp_path: Path, content: Checkpoint) -> None:
    path = save(tmp_path, 1, content) / file
    other = save(
        tmp_path, 2, Checkpoint({"a": torch.zeros(1)}, {"0.step": torch.tensor(4.0)}, {"cpu": torch.ones(2)}, {})
    )
    original = path.read_bytes()
    flipped = bytearray(original)
    flipped[len(flipped) // 2] ^= 4
    changed = {"empty": b"", "cut": original[:-3], "flipped": bytes(flipped), "swapped": (other / file).read_bytes()}
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(CheckpointError, match=r"checkpoint-1.*(is damaged \(SHA-256|is not a complete checkpoint)"):
        load(path.parent)


def test_digests_that_are_no_mapping_are_refused(tmp_path: Path, content: Checkpoint) -> None:
    folder = save(tmp_path, 1, content)
    for text in ("[]", "3", '{"a": 1}', json.dumps(dict.fromkeys(FILES, 3))):
        (folder / checkpoints.DIGESTS).write_text(text)
        with pytest.raises(CheckpointError, match="checkpoint-1"):
            load(folder)


def test_newest_says_what_to_do(tmp_path: Path, content: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        newest(tmp_path / "nowhere")
    for step in (2, 10, 9):
        save(tmp_path, step, content)
    (tmp_path / "checkpoint-99x").mkdir()
    (tmp_path / "checkpoint-77").touch()
    assert steps_in(tmp_path) == [2, 9, 10]
    assert newest(tmp_path)[0] == 10
    for step in (10, 9):
        (tmp_path / f"checkpoint-{step}" / checkpoints.STATE).unlink()
    with pytest.raises(
        CheckpointError, match=r"checkpoint-10 .*checkpoint-2 is sound: remove .*checkpoint-10 and --resume"
    ):
        newest(tmp_path)
    (tmp_path / "checkpoint-2" / checkpoints.STATE).unlink()
    with pytest.raises(CheckpointError, match="no older one is sound: start anew with --overwrite"):
        newest(tmp_path)


@pytest.mark.parametrize(
    ("keep", "best", "left"), [(1, None, [8]), (2, None, [6, 8]), (1, 2, [2, 8]), (1, 8, [8]), (9, 2, [2, 4, 6, 8])]
)
def test_rotation_keeps_the_newest_and_the_best(
    keep: int, best: int | None, left: list[int], tmp_path: Path, content: Checkpoint
) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step, content)
    rotate(tmp_path, keep, best)
    assert steps_in(tmp_path) == left


def test_a_failed_save_leaves_the_former_ones_and_nothing_else(
    tmp_path: Path, content: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, content)
    before = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint-1").iterdir()}
    calls = [0]
    sync: Callable[[Path], None] = durable._sync

    for failing in range(1, 8):

        def full(path: Path, failing: int = failing) -> None:
            calls[0] += 1
            if calls[0] == failing:
                raise OSError(28, "No space left on device")
            sync(path)

        calls[0] = 0
        monkeypatch.setattr(durable, "_sync", full)
        with pytest.raises(ResourceError, match=r"no space left while writing .*checkpoint-\d"):
            save(tmp_path, 2, content)
        left = {p.name for p in tmp_path.iterdir()}
        # The last sync comes after the rename: the new checkpoint is whole then.
        assert left == ({"checkpoint-1", "checkpoint-2"} if failing == 7 else {"checkpoint-1"})
        assert {p.name: p.read_bytes() for p in (tmp_path / "checkpoint-1").iterdir()} == before
    load(tmp_path / "checkpoint-2")
