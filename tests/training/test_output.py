"""The output folder: what a run may touch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.errors import ConfigError, DataError, OutputFolderError, TargetError
from petune.training.output import clear, held, prepare, refuse_base_folder
from petune.training.run import train
from petune.training.run_many import train_many


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
    assert (folder / "petune.json").exists(), "what cannot start must not cost the last run"
    clear(folder)
    left = {p.name for p in folder.iterdir()}
    assert "notes.txt" in left
    assert left == {"notes.txt"}
    assert train(keys(max_steps=3), base=tiny_base(), overwrite=True).steps == 3


def test_one_run_at_a_time_writes_to_a_folder(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    folder = tmp_path / "run"
    with held([folder], resume=False, overwrite=False):
        with pytest.raises(OutputFolderError, match=r"another run is running in .*run \(process \d+ on"):
            train(keys(max_steps=2), base=tiny_base())
        with pytest.raises(OutputFolderError, match="another run is running in"):
            train_many([keys(max_steps=2)], base=tiny_base())
    (folder / ".checkpoint-1.7.partial").mkdir(parents=True)
    (folder / ".adapter_config.json.7.partial").touch()
    train(keys(max_steps=2), base=tiny_base())
    assert not list(folder.glob(".*")), "neither the lock nor what a killed run left is still there"


def test_a_run_that_another_has_made_since_is_found(tmp_path: Path) -> None:
    prepare(tmp_path, resume=False, overwrite=False)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(OutputFolderError, match="holds a run already"), held([tmp_path], resume=False, overwrite=False):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_run_that_cannot_start_costs_nothing(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    folder = tmp_path / "run"
    train(keys(max_steps=2), base=tiny_base())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for changes in ({"target_modules": "nowhere"}, {"max_length": 3}):
        with pytest.raises((TargetError, DataError)):
            train(keys(max_steps=2, **changes), base=tiny_base(), overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_method_leaves_nothing_behind(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    folder = tmp_path / "run"
    train(keys(max_steps=1, method="full"), base=tiny_base())
    assert (folder / "model.safetensors").is_file()
    train(keys(max_steps=1), base=tiny_base(), overwrite=True)
    assert not (folder / "model.safetensors").exists(), "transformers would load it below the adapter"
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("text", ["# My notes\n", "---\ntags:\n- other\n---\n# Theirs\n", ""])
def test_a_readme_of_somebody_else_is_never_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(OutputFolderError, match=r"holds a README\.md that petune did not write.*move it away"):
            prepare(tmp_path, resume=False, overwrite=overwrite)
    clear(tmp_path)
    assert (tmp_path / "README.md").read_text() == text


def test_a_model_of_somebody_else_is_never_replaced(tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    tiny_base().model.save_pretrained(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(OutputFolderError, match=r"holds a model that petune did not train \(config\.json, model"):
            prepare(tmp_path, resume=False, overwrite=overwrite)


def test_the_base_s_own_folder_is_refused_before_anything_is_removed(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    folder = tmp_path / "run"
    train(keys(max_steps=1, method="full"), base=tiny_base())
    with pytest.raises(OutputFolderError, match=r"is the base model's own folder; give another --output-dir"):
        train(keys(max_steps=1, model=str(folder)), overwrite=True)
    assert (folder / "model.safetensors").is_file()


def test_the_demo_model_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    refuse_base_folder(Path("demo"), "demo")
    with pytest.raises(OutputFolderError, match="base model's own folder"):
        refuse_base_folder(Path("demo"), "./demo")


def test_going_on_and_beginning_anew_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resume goes on with the run, --overwrite begins it anew"):
        prepare(tmp_path, resume=True, overwrite=True)


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
