import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from petune.backbone.cache import build_once, cache_folder, need_space
from petune.errors import ResourceError


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, petune_home: Path) -> None:
    assert cache_folder() == petune_home
    monkeypatch.delenv("PETUNE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/petune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "petune"


def test_built_once(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "part").write_text("whole")

    for _ in range(2):
        assert build_once(tmp_path / "made", build) == tmp_path / "made"
    assert len(calls) == 1
    assert (tmp_path / "made" / "part").read_text() == "whole"


def test_interrupted_build_leaves_nothing_and_is_done_again(tmp_path: Path) -> None:
    def dies(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "made", dies)
    assert not (tmp_path / "made").exists()
    killed = tmp_path / "made.partial"  # what a process leaves that had no time to clean up
    killed.mkdir()
    (killed / "half").touch()
    build_once(tmp_path / "made", lambda folder: (folder / "part").touch())
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["part"]
    assert not killed.exists()


def _slowly(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(0.3)


def test_two_processes_at_once_build_one(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=build_once, args=(tmp_path / "made", _slowly)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(list((tmp_path / "made").iterdir())) == 1


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"cannot be written .*set PETUNE_HOME to another folder"):
        build_once(tmp_path / "file" / "sub" / "made", lambda _: None)


def test_too_little_space(tmp_path: Path) -> None:
    need_space(tmp_path, 1, "a small thing")
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ResourceError, match=r"a big thing needs [\d,]+ bytes in .*, and [\d,]+ are free; make room"):
        need_space(tmp_path, 10 * free, "a big thing")
