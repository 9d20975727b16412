"""Writing files so that a crash, a full disk or a second process never leaves half of one under its own name."""

import errno
import fcntl
import os
import platform
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from safetensors import SafetensorError

from petune.errors import OutputFolderError, ResourceError

LOCK = ".lock"
"""The file by which a folder is held."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error while writing ``path`` into one of ours, with the next step.

    Raises:
        ResourceError: the disk or quota is full.
        OutputFolderError: the place is read-only or missing.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number, reason = _number_and_reason(error)
        if number is None:
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free
            raise ResourceError(
                f"no space left while writing {path} ({free:,} bytes free); make room or choose another --output-dir"
            ) from error
        raise OutputFolderError(
            f"cannot write {path}: {reason}; choose another --output-dir or change its permissions"
        ) from error


def _number_and_reason(error: OSError | SafetensorError) -> tuple[int | None, str]:
    if isinstance(error, OSError):
        return error.errno or errno.EIO, error.strerror or str(error)
    number = re.search(r"\(os error (\d+)\)", str(error))  # safetensors wraps the system's error in text
    return (int(number[1]) if number else None), str(error)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, make it durable, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = _mode(temporary)
            write(temporary)
            _finish(temporary, mode)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, durably."""
    write_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def partial_name(path: Path) -> Path:
    """Return where :func:`growing_file` gathers the lines of ``path`` until it is whole."""
    return path.with_name(f"{path.name}.part")


@contextmanager
def growing_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Yield a function that adds text to a file, at once readable under :func:`partial_name`.

    When the block ends well the file is made durable and gets the name ``path``; when it does not, what there is stays
    under the partial name.
    """
    partial = partial_name(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8")
    with file:

        def add(text: str) -> None:
            with explained(path):
                file.write(text)
                file.flush()

        yield add
    with explained(path):
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explained(path):
            temporary.mkdir(parents=True)
            yield temporary
            for inside in sorted(temporary.rglob("*")):
                if inside.is_dir():
                    _sync(inside)
                else:
                    _finish(inside, _mode(temporary) & 0o666)
            _sync(temporary)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Keep every other process that holds ``folder`` out of it for the block, whatever becomes of this one.

    Args:
        folder: made where it is missing, and removed again where nothing was written.
        what: what runs there, for the error.

    Raises:
        OutputFolderError: another process holds it, or it cannot be locked or written.
    """
    path = folder / LOCK
    is_new = not folder.exists()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    with lock:
        try:
            is_ours = _locked(lock, path)
        except OSError as error:
            _leave(path, is_new=is_new)
            raise OutputFolderError(
                f"{folder} cannot be kept for this {what} alone ({error.strerror or error}); give an --output-dir on a"
                " file system that has locks"
            ) from error
        if not is_ours:
            lock.seek(0)
            raise OutputFolderError(
                f"another {what} is running in {folder} ({lock.read().strip() or 'it has just begun'}); wait for it, or"
                " give another --output-dir"
            )
        try:
            with explained(folder):
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {platform.node()}")
                lock.flush()
            yield
        finally:
            _leave(path, is_new=is_new)


def _leave(lock: Path, *, is_new: bool) -> None:
    """Remove the file by which a folder was held, and the folder where nothing was written to a new one."""
    lock.unlink(missing_ok=True)
    if is_new:
        with suppress(OSError):  # it is not empty
            lock.parent.rmdir()


def _locked(lock: TextIO, path: Path) -> bool:
    """Lock an open file, and say whether that went well and nobody has removed it meanwhile."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed have left half written in ``folder``, which this one holds."""
    with explained(folder):
        for path in folder.glob(".*.partial"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _finish(file: Path, mode: int) -> None:
    """Give ``file`` the permissions that a new file has, and make it durable."""
    if _mode(file) != mode:  # safetensors' own are the owner's alone, so nobody else could read a shared adapter
        file.chmod(mode)
    _sync(file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_files(folder: Path, write: Callable[[str], object]) -> list[str]:
    """Let ``write`` fill a temporary folder, then move its files into ``folder`` one by one; return their names."""
    temporary = folder / f".{os.getpid()}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explained(folder):
            temporary.mkdir(parents=True)
            write(str(temporary))
            files = sorted(p for p in temporary.iterdir() if p.is_file())
            for file in files:
                _finish(file, _mode(temporary) & 0o666)
                file.replace(folder / file.name)
            _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [file.name for file in files]
