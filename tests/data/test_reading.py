import pytest

from petune.data.reading import read_rows
from petune.errors import DataError

ROWS = [{"text": f"film {n}"} for n in range(50)]


def test_a_sample_is_seeded_and_keeps_the_order_and_the_lines(write):
    path = write("rows.jsonl", ROWS)
    sample = read_rows(f"{path}#10", seed=3)
    assert len(sample.rows) == 10
    assert sample.numbers == sorted(sample.numbers)
    assert all(row == ROWS[number - 1] for row, number in zip(sample.rows, sample.numbers, strict=True))
    assert sample.origin(0) == f"{path}:{sample.numbers[0]}"
    assert read_rows(f"{path}#10", seed=3).numbers == sample.numbers
    assert read_rows(f"{path}#10", seed=4).numbers != sample.numbers


@pytest.mark.parametrize("count", [0, 51])
def test_a_sample_the_file_cannot_give(write, count):
    with pytest.raises(DataError, match=f"asks for {count} rows of 50; give a number from 1 to 50"):
        read_rows(f"{write('rows.jsonl', ROWS)}#{count}")


def test_a_file_whose_name_ends_like_a_sample(write):
    with pytest.raises(DataError, match=r"files named '.jsonl#3' cannot be read"):
        read_rows(write("rows.jsonl#3", ROWS))


def test_a_missing_file_names_the_nearest(write):
    path = write("reviews.jsonl", ROWS)
    with pytest.raises(DataError, match=r"there is no file .*revews.jsonl. Did you mean 'reviews.jsonl'\?"):
        read_rows(path.replace("reviews", "revews"))
    with pytest.raises(DataError, match="nor is there a folder"):
        read_rows(path.replace("/reviews", "/nowhere/reviews"))


def test_other_kinds_of_paths(write, tmp_path):
    with pytest.raises(DataError, match=r"files named '.xlsx' cannot be read; give a .csv, .json, .jsonl, "):
        read_rows(write("rows.xlsx", "x"))
    with pytest.raises(DataError, match="is a folder, and one file is needed; it holds no "):
        read_rows(str(tmp_path))
    write("rows.jsonl", ROWS)
    with pytest.raises(DataError, match=r"is a folder, and one file is needed; it holds rows.jsonl"):
        read_rows(str(tmp_path))
    with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
        read_rows(write("none.csv", b""))


def test_a_file_that_cannot_be_opened(write, monkeypatch):
    from pathlib import Path

    path = write("rows.jsonl", ROWS)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"rows.jsonl cannot be read: Permission denied; check its permissions"):
        read_rows(path)


def test_the_user_s_home_is_known(write, tmp_path, monkeypatch):
    write("rows.jsonl", ROWS)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read_rows("~/rows.jsonl").rows) == 50


@pytest.mark.parametrize("name", ["~nobody-of-that-name/rows.jsonl", "x" * 300 + ".jsonl", "x" * 300 + ".jsonl#5"])
def test_names_that_the_system_refuses(name):
    with pytest.raises(DataError, match="no such file"):
        read_rows(name)
