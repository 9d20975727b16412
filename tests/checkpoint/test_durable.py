"""Whatever fails while a file is written, the old one stays and nothing else is left behind."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from petune.checkpoint import durable
from petune.checkpoint.durable import growing_file, new_folder, partial_name, write_file, write_files, write_text
from petune.errors import OutputFolderError, ResourceError


def fails_with(error: Exception) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text("half of it")
        raise error

    return write


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]
DENIED = [
    OSError(errno.EROFS, "Read-only file system"),
    PermissionError(errno.EACCES, "Permission denied"),
    SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full_disk_keeps_the_old_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(ResourceError, match=r"no space left while writing .*a\.json \([\d,]+ bytes free\); make room"):
        write_file(path, fails_with(error))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", DENIED, ids=str)
def test_a_refusal_of_the_system_is_explained(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OutputFolderError, match=r"cannot write .*a\.json: .*; choose another --output-dir"):
        write_file(tmp_path / "a.json", fails_with(error))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), SafetensorError("InvalidHeader"), KeyboardInterrupt()], ids=repr
)
def test_other_failures_pass_through_and_leave_nothing(tmp_path: Path, error: BaseException) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(type(error)):
        write_file(tmp_path / "a", fails_with(error))  # type: ignore[arg-type]
    with pytest.raises(type(error)), new_folder(tmp_path / "b"):
        raise error
    with pytest.raises(type(error)):
        write_files(tmp_path, lambda folder: fails_with(error)(Path(folder) / "c"))  # type: ignore[arg-type]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "old"}


def test_a_place_below_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below in (tmp_path / "file" / "a.json", tmp_path / "file" / "deeper" / "a.json"):
        with pytest.raises(OutputFolderError, match=r"cannot write .*a\.json"):
            write_text(below, "text")
        with pytest.raises(OutputFolderError, match="cannot write"), new_folder(below):
            pass


def test_safetensors_errors_are_the_kind_that_is_understood(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFolderError, match="Not a directory"):
        write_file(tmp_path / "x", lambda _: save_file({"a": torch.zeros(2)}, tmp_path / "file" / "x"))


def test_file_is_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, str]] = []
    replace = Path.replace

    def synced(path: Path) -> None:
        order.append(("sync", path.name))

    def replaced(path: Path, target: Path) -> Path:
        order.append(("rename", target.name))
        return replace(path, target)

    monkeypatch.setattr(durable, "_sync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_text(tmp_path / "a", "text")
    part = f".a.{os.getpid()}.partial"
    assert order == [("sync", part), ("rename", "a"), ("sync", tmp_path.name)]

    order.clear()
    with new_folder(tmp_path / "b") as folder:
        (folder / "one").touch()
        (folder / "two").touch()
    part = f".b.{os.getpid()}.partial"
    assert order == [("sync", "one"), ("sync", "two"), ("sync", part), ("rename", "b"), ("sync", tmp_path.name)]


def test_new_folder_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with new_folder(tmp_path / "a") as folder:
            (folder / text).write_text(text)
            assert (tmp_path / "a").exists() == (text == "second")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["second"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_write_files_returns_the_names_and_keeps_neighbours(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / f".{os.getpid()}.partial").mkdir()  # of a process that had this number and was killed

    def write(folder: str) -> None:
        for name in ("b", "a"):
            Path(folder, name).write_text(name)

    assert write_files(tmp_path, write) == ["a", "b"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "mine"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_may_be_read_by_whom_the_mask_allows(tmp_path: Path, mask: int, mode: int) -> None:
    def write(path: str | Path) -> None:
        save_file({"a": torch.ones(2)}, path)  # for the owner alone, left to itself

    former = os.umask(mask)
    try:
        write_file(tmp_path / "one" / "a.safetensors", write)
        (tmp_path / "two").mkdir()
        write_files(tmp_path / "two", lambda folder: write(Path(folder) / "a.safetensors"))
        with new_folder(tmp_path / "three") as folder:
            write(folder / "a.safetensors")
    finally:
        os.umask(former)
    modes = {path.parent.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("a.safetensors")}
    assert modes == dict.fromkeys(("one", "two", "three"), mode)


def test_a_growing_file_is_readable_at_once_and_whole_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    with growing_file(path) as add:
        add("one\n")
        assert partial_name(path).read_text(encoding="utf-8") == "one\n"
        assert not path.exists()
        add("zwölf\n")
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"
    assert [file.name for file in path.parent.iterdir()] == ["a.jsonl"]


def test_a_growing_file_that_fails_stays_under_the_partial_name(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old")

    def fail() -> None:
        with growing_file(path) as add:
            add("one\n")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert partial_name(path).read_text() == "one\n"


def test_a_growing_file_explains_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFolderError, match=r"cannot write .*a\.jsonl: "), growing_file(tmp_path / "file/a.jsonl"):
        raise AssertionError("nothing is written")


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(durable.fcntl, "flock", flock)
    folder = tmp_path / "run"
    with (
        pytest.raises(OutputFolderError, match=r"run cannot be kept for this run alone \(Function not implemented\)"),
        durable.held(folder, "run"),
    ):
        pytest.fail("it is not held")
    assert not folder.exists()


def test_a_folder_that_was_held_for_nothing_is_gone(tmp_path: Path) -> None:
    refused, used, former = (tmp_path / name for name in ("refused", "used", "former"))
    former.mkdir()
    for folder in (refused, used, former):
        with durable.held(folder, "comparison"):
            if folder == used:
                write_text(folder / "comparison.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["former", "used"]
    assert [path.name for path in used.iterdir()] == ["comparison.json"]
