"""Hidden states in a file: found again by content, never stale, one writer at a time."""

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from petune.data.encoding import Encoded
from petune.training.hidden_states import (
    DATA_FILE,
    INDEX_FILE,
    HiddenStates,
    make_room,
    remove_unfinished,
    row_key,
    rows_key,
)

WIDTH = 4
CPU = torch.device("cpu")
ROWS = [Encoded(ids, ids, f"rows:{n}") for n, ids in enumerate(([1, 2, 3], [4, 5], [6], [1, 2, 3]))]


def opened(folder: Path, rows: Sequence[Encoded] = ROWS, dtype: torch.dtype = torch.bfloat16) -> HiddenStates:
    return HiddenStates(folder, rows, WIDTH, dtype)


def hidden(rows: Sequence[Encoded], seed: int = 0) -> Tensor:
    """A batch padded on the right; what lies behind a row is not zero."""
    width = max(len(row.input_ids) for row in rows)
    return torch.randn(len(rows), width, WIDTH, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def test_rows_come_back_with_zeros_behind_them(tmp_path: Path) -> None:
    states = opened(tmp_path / "a")
    assert not states.knows(ROWS[:1])
    given = hidden(ROWS[:2])
    states.add(ROWS[:2], given)
    assert states.knows(ROWS[:2])
    assert states.knows([ROWS[3]])  # the same tokens as the first row
    assert not states.knows(ROWS[:3])
    got = states.batch([ROWS[1], ROWS[0]], CPU)
    assert torch.equal(got[1], given[0])
    assert torch.equal(got[0, :2], given[1, :2])
    assert not got[0, 2:].any()
    states.close(keep=False)
    assert not (tmp_path / "a").exists()


def test_size() -> None:
    assert HiddenStates.size(ROWS, WIDTH, torch.bfloat16) == 6 * WIDTH * 2


def test_keys_are_of_what_a_model_is_given() -> None:
    other_labels = Encoded([1, 2, 3], [-100, -100, 3], "elsewhere:9")
    assert row_key(other_labels) == row_key(ROWS[0])
    assert row_key(Encoded([1, 2, 3], [], "", [0, 0, 1])) != row_key(ROWS[0])
    assert rows_key(ROWS) == rows_key(ROWS[:3]) == rows_key([*reversed(ROWS)])
    assert rows_key(ROWS[:2]) != rows_key(ROWS)


def test_what_was_kept_is_used_by_another_run(tmp_path: Path) -> None:
    states = opened(tmp_path / "a")
    states.add(ROWS[:2], given := hidden(ROWS[:2]))
    states.close(keep=True)
    assert HiddenStates.are_kept(tmp_path / "a")
    again = opened(tmp_path / "a", list(reversed(ROWS)))
    assert again.knows(ROWS[:2])
    assert not again.knows(ROWS[2:3])
    assert torch.equal(again.batch(ROWS[:1], CPU), given[:1])
    again.close(keep=False)


def test_what_was_kept_stays_when_a_run_that_keeps_nothing_is_done(tmp_path: Path) -> None:
    states = opened(tmp_path / "a")
    states.add(ROWS[:1], given := hidden(ROWS[:1]))
    states.close(keep=True)
    opened(tmp_path / "a").close(keep=False)
    adding = opened(tmp_path / "a")
    assert adding.knows(ROWS[:1])
    adding.add(ROWS[1:2], hidden(ROWS[1:2]))
    assert not HiddenStates.are_kept(tmp_path / "a")  # what is being written is not sound
    adding.close(keep=False)
    again = opened(tmp_path / "a")
    assert again.knows(ROWS[:2])
    assert torch.equal(again.batch(ROWS[:1], CPU), given)
    again.close(keep=True)


def test_what_was_kept_outlives_a_run_that_is_killed_while_it_reads(tmp_path: Path) -> None:
    states = opened(tmp_path / "a")
    states.add(ROWS, hidden(ROWS))
    states.close(keep=True)
    killed = opened(tmp_path / "a")
    killed.batch(ROWS, CPU)
    killed.add(ROWS, hidden(ROWS))  # nothing new
    killed._lock.close()
    again = opened(tmp_path / "a")
    assert again.knows(ROWS)
    again.close(keep=True)


def test_a_full_disk_is_given_back_what_was_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reserved_in_part(file: int, start: int, size: int) -> None:
        os.write(file, b"0")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", reserved_in_part, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(OSError, match="No space left on device"):
        opened(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    killed, mine, kept, used = (tmp_path / (letter * 64) for letter in "abcd")
    others = tmp_path / "of others"
    for folder in (killed, mine, others):
        opened(folder)._lock.close()
    opened(kept).close(keep=True)
    being_written = opened(used)
    remove_unfinished(tmp_path, besides=mine)
    assert set(tmp_path.iterdir()) == {mine, kept, used, others}
    being_written.close(keep=False)


def test_an_unfinished_file_is_begun_anew(tmp_path: Path) -> None:
    states = opened(tmp_path / "a")
    states.add(ROWS[:2], hidden(ROWS[:2]))
    states._lock.close()  # the process was killed
    assert not HiddenStates.are_kept(tmp_path / "a")
    again = opened(tmp_path / "a")
    assert not again.knows(ROWS[:1])
    again.close(keep=False)


@pytest.mark.parametrize("damage", ["bytes", "length", "index", "rows", "missing"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, damage: str) -> None:
    states = opened(tmp_path / "a")
    states.add(ROWS[:2], hidden(ROWS[:2]))
    states.close(keep=True)
    data, index = tmp_path / "a" / DATA_FILE, tmp_path / "a" / INDEX_FILE
    told = json.loads(index.read_text())
    if damage == "bytes":
        content = bytearray(data.read_bytes())
        content[3] ^= 1
        data.write_bytes(content)
    elif damage == "length":
        data.write_bytes(data.read_bytes()[:-2])
    elif damage == "index":
        index.write_text("[")
    elif damage == "rows":
        index.write_text(json.dumps({**told, "rows": ["00" * 32]}))
    else:
        data.unlink()
    again = opened(tmp_path / "a")
    assert not again.knows(ROWS[:1])
    again.add(ROWS[:1], given := hidden(ROWS[:1]))
    assert torch.equal(again.batch(ROWS[:1], CPU), given)
    again.close(keep=False)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    states = opened(tmp_path / "a")
    with pytest.raises(BlockingIOError):
        opened(tmp_path / "a")
    states.close(keep=True)
    opened(tmp_path / "a").close(keep=False)


def test_room_is_made_by_removing_the_oldest(tmp_path: Path) -> None:
    new, middle, old, mine, unfinished = (tmp_path / (letter * 64) for letter in "abcde")
    others = tmp_path / "of others"  # looks much like ours, and is not
    for age, folder in enumerate((new, middle, old, mine, others)):
        states = opened(folder)
        states.add(ROWS, hidden(ROWS))
        states.close(keep=True)
        os.utime(folder / INDEX_FILE, (1000 - age, 1000 - age))
    being_written = opened(unfinished)
    size = HiddenStates.size(ROWS, WIDTH, torch.bfloat16)

    def left(allowed: int) -> set[Path]:
        make_room(tmp_path, besides=mine, allowed=allowed)
        return set(tmp_path.iterdir())

    always = {mine, unfinished, others}
    assert left(3 * size) == always | {new, middle, old}
    assert left(2 * size) == always | {new, middle}
    assert left(0) == always
    being_written.close(keep=False)


def test_what_is_in_use_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 64)
    states = opened(folder)
    (folder / INDEX_FILE).write_text("{}", encoding="utf-8")
    make_room(tmp_path, besides=tmp_path / "b", allowed=0)
    assert folder.is_dir()
    states.close(keep=False)
    assert not folder.exists()
