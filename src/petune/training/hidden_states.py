"""Hidden states of rows in one memory-mapped file, found again by what they were computed from.

A file's name is a digest of everything its contents depend on, so that a stale one is never found: it is another name.
While it is in use, a lock keeps a second process out. Its index goes before anything is added and is written when the
run is done, so a file whose writer did not finish has none. It is begun anew, like one whose bytes are not those that
its index tells.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, final

import torch
from torch import Tensor

from petune.backbone.digests import read_digest
from petune.checkpoint.durable import write_text
from petune.data.encoding import Encoded
from petune.kernels.upload import uploaded

DATA_FILE = "hidden.bin"
INDEX_FILE = "index.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@final
class HiddenStates:
    """The hidden states [T, d] of rows, one behind the other in a file.

    Args:
        folder: its folder, named by a digest (SHA-256) of what the states depend on.
        rows: every row that may be asked for.
        width: d.
        dtype: of the numbers.

    Raises:
        BlockingIOError: another process is using the folder.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, rows: Iterable[Encoded], width: int, dtype: torch.dtype) -> None:
        self._folder = folder
        self._width = width
        self._places: dict[bytes, tuple[int, int]] = {}
        end = 0
        for key, length in sorted(_lengths(rows).items()):
            self._places[key] = (end, length)
            end += length
        folder.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self._lock.close()
            raise
        self._was_kept = self.are_kept(folder)
        try:
            self._known = self._read_index(end * width * dtype.itemsize)
            _reserve(folder / DATA_FILE, end * width * dtype.itemsize)
            self._numbers: Tensor | None = torch.from_file(str(folder / DATA_FILE), True, end * width, dtype=dtype)
        except BaseException:
            if not self.are_kept(folder):  # a full disk is given back what was taken of it
                shutil.rmtree(folder, ignore_errors=True)
            self._lock.close()
            raise

    @staticmethod
    def size(rows: Iterable[Encoded], width: int, dtype: torch.dtype) -> int:
        """Return the bytes that the hidden states of ``rows`` take."""
        return sum(_lengths(rows).values()) * width * dtype.itemsize

    @staticmethod
    def are_kept(folder: Path) -> bool:
        """Say whether a run has kept its hidden states in ``folder``."""
        return (folder / INDEX_FILE).is_file()

    def knows(self, rows: Sequence[Encoded]) -> bool:
        """Say whether the hidden states of all ``rows`` are there."""
        return all(row_key(row) in self._known for row in rows)

    def batch(self, rows: Sequence[Encoded], device: torch.device) -> Tensor:
        """Return the hidden states [B, T, d] of known rows, zeros behind the short ones."""
        views = [self._view(row_key(row)) for row in rows]
        padded = views[0].new_zeros(len(rows), max(len(view) for view in views), self._width)
        for filled, view in zip(padded, views, strict=True):
            filled[: len(view)] = view
        return uploaded(padded, device)

    def add(self, rows: Sequence[Encoded], hidden: Tensor) -> None:
        """Keep the hidden states of ``rows`` that are not known yet, from a batch [B, T, d] padded on the right."""
        for row, states in zip(rows, hidden, strict=True):
            key = row_key(row)
            if key not in self._known:
                (self._folder / INDEX_FILE).unlink(missing_ok=True)  # from here on it is being written
                self._view(key).copy_(states[: len(row.input_ids)])
                self._known.add(key)

    def close(self, *, keep: bool) -> None:
        """Let go of the file, and remove it unless it is to be kept for another run, or a former run kept it."""
        self._numbers = None
        try:
            if not (keep or self._was_kept):
                shutil.rmtree(self._folder, ignore_errors=True)
            elif self.are_kept(self._folder):
                (self._folder / INDEX_FILE).touch()  # the longest unused go first
            else:
                index = {"sha256": read_digest(self._folder / DATA_FILE), "rows": sorted(k.hex() for k in self._known)}
                write_text(self._folder / INDEX_FILE, json.dumps(index) + "\n")
        finally:
            self._lock.close()

    def _view(self, key: bytes) -> Tensor:
        start, length = self._places[key]
        assert self._numbers is not None, "the file is closed"
        return self._numbers[start * self._width : (start + length) * self._width].view(length, self._width)

    def _read_index(self, size: int) -> set[bytes]:
        """Return the keys of the rows that a finished, sound file holds; none where there is no such file."""
        data, index = self._folder / DATA_FILE, self._folder / INDEX_FILE
        try:
            told = json.loads(index.read_text(encoding="utf-8"))
            sound = data.stat().st_size == size and read_digest(data) == told["sha256"]
            known = {bytes.fromhex(key) for key in told["rows"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            sound, known = False, set()
        if sound and known <= self._places.keys():
            return known
        for path in (index, data):
            path.unlink(missing_ok=True)
        return set()


def remove_unfinished(where: Path, *, besides: Path) -> None:
    """Remove what runs that were killed have left in the folders of ``where``, but not in ``besides``."""
    for folder in _folders(where):
        if folder != besides:
            _remove_unless_used(folder, unfinished=True)


def make_room(where: Path, *, besides: Path, allowed: int) -> None:
    """Remove what runs have kept in the folders of ``where``, the oldest first, until ``allowed`` bytes hold the rest.

    Args:
        where: holds a folder for each set of hidden states.
        besides: the folder that the room is for, which counts for nothing.
        allowed: how many bytes the others may keep.
    """
    kept = [path for path in _folders(where) if path != besides and HiddenStates.are_kept(path)]
    kept.sort(key=lambda path: (path / INDEX_FILE).stat().st_mtime, reverse=True)
    for folder in kept:
        allowed -= (folder / DATA_FILE).stat().st_size
        if allowed < 0:
            _remove_unless_used(folder)


def _folders(where: Path) -> list[Path]:
    """Return the folders of ``where`` that hold hidden states."""
    # Somebody may have named a folder that holds other things: only what looks like ours is touched.
    return [path for path in where.glob("*") if _DIGEST.fullmatch(path.name) and (path / DATA_FILE).is_file()]


def _remove_unless_used(folder: Path, *, unfinished: bool = False) -> None:
    """Remove ``folder`` unless a run is using it; with ``unfinished``, unless it has been kept."""
    try:
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (unfinished and HiddenStates.are_kept(folder)):
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, somebody else's, or gone
        return


def _reserve(path: Path, size: int) -> None:
    """Make a file of ``size`` bytes; where the system can, a full disk is told now and not by a signal later."""
    with path.open("ab") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def row_key(row: Encoded) -> bytes:
    """Return a digest of what a model is given of a row."""
    numbers = array("q", (len(row.input_ids), *row.input_ids, *row.token_types))
    return hashlib.sha256(numbers.tobytes()).digest()


def rows_key(rows: Iterable[Encoded]) -> str:
    """Return a digest of a set of rows, whatever their order and however often each comes."""
    return hashlib.sha256(b"".join(sorted(_lengths(rows)))).hexdigest()


def _lengths(rows: Iterable[Encoded]) -> dict[bytes, int]:
    return {row_key(row): len(row.input_ids) for row in rows}
