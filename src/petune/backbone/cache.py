"""petune's own cache folder, and building something in it exactly once, whoever else is building it too."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from petune.errors import ResourceError


def cache_folder() -> Path:
    """Where petune keeps what it fetched or converted: ``$PETUNE_HOME``, or a folder of the user's cache."""
    if home := os.environ.get("PETUNE_HOME"):
        return Path(home).expanduser().absolute()
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches).expanduser().absolute() / "petune"
    return Path.home() / ".cache" / "petune"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return ``folder``, letting ``build`` fill it first where it does not exist yet.

    ``build`` fills a neighbouring folder, which is renamed into place when it is complete: a folder that
    exists is whole. A lock makes a second process wait for the first; what a killed one left behind is
    removed.

    Raises:
        ResourceError: the cache cannot be written, or the disk is full.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _build(folder, build)
    except OSError as error:
        if error.errno not in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.ENOTDIR,
        ):
            raise
        raise ResourceError(
            f"petune's cache folder {folder.parent} cannot be written ({error.strerror}); make room or change its "
            "permissions, or set PETUNE_HOME to another folder"
        ) from error
    return folder


def need_space(folder: Path, size: int, purpose: str) -> None:
    """Check that the disk of ``folder``, which exists, can take ``size`` more bytes.

    Raises:
        ResourceError: it cannot; the message has the bytes needed and free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ResourceError(
            f"{purpose} needs {size:,} bytes in {folder}, and {free:,} are free; make room, or set PETUNE_HOME to "
            "a folder on another disk"
        )


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        build(partial)
        for path in (*partial.rglob("*"), partial):
            _to_disk(path)
        partial.rename(folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
