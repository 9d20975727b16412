"""The output folder: what a run may touch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.errors import OutputFolderError
from petune.training.output import prepare
from petune.training.run import train


def test_a_new_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    prepare(tmp_path / "a" / "b", resume=False, overwrite=False)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_files_of_others_are_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    prepare(tmp_path, resume=False, overwrite=False)
    prepare(tmp_path, resume=False, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_is_kept_unless_told_and_others_files_always(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    folder = tmp_path / "run"
    train(keys(max_steps=2), base=tiny_base())
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoint-notes").mkdir()
    with pytest.raises(OutputFolderError, match=r"run holds a run already \(.*go on with --resume.*--overwrite"):
        train(keys(max_steps=2), base=tiny_base())
    (folder / "checkpoint-notes").rmdir()

    prepare(folder, resume=True, overwrite=False)
    assert (folder / "petune.json").exists()
    prepare(folder, resume=False, overwrite=True)
    left = {p.name for p in folder.iterdir()}
    assert "notes.txt" in left
    assert not left & {"petune.json", "adapter_model.safetensors", "checkpoint-2", "metrics.jsonl", "recipe.yaml"}
    assert train(keys(max_steps=3), base=tiny_base(), overwrite=True).steps == 3


def test_checkpoints_of_others_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").touch()
    with pytest.raises(
        OutputFolderError, match=r"checkpoint-5, which is no checkpoint of petune, so --overwrite leaves"
    ):
        prepare(tmp_path, resume=False, overwrite=True)
    assert (tmp_path / "checkpoint-5" / "trainer_state.json").exists()


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFolderError, match="is a file; give a folder with --output-dir"):
        prepare(tmp_path / "file", resume=False, overwrite=True)
    with pytest.raises(OutputFolderError, match=r"cannot write .*choose another --output-dir"):
        prepare(tmp_path / "file" / "below", resume=False, overwrite=False)
