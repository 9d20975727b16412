import json
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from petune.comparison.recipe import CompareOptions
from petune.comparison.split import content_digest, split_rows
from petune.data.contents import Pair, Text
from petune.data.conversation import Conversation
from petune.errors import DataError

Write = Callable[[Path, Iterable[Mapping[str, Any]]], Path]


def rows(numbers: Iterable[int]) -> list[dict[str, str]]:
    return [{"text": f"row {i}", "label": "ab"[i % 2]} for i in numbers]


def options(data: Path, **changes: Any) -> CompareOptions:
    return CompareOptions.model_validate({"data": str(data), **changes})


def test_parts_are_disjoint_complete_and_always_the_same(tmp_path: Path, write_rows: Write) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows(range(50)))
    parts = split_rows(options(data))
    assert (len(parts.train), len(parts.development), len(parts.test)) == (36, 4, 10)
    origins = [row.origin for part in (parts.train, parts.development, parts.test) for row in part]
    assert sorted(origins) == sorted(f"{data}:{i + 1}" for i in range(50))
    assert split_rows(options(data)) == parts


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path, write_rows: Write) -> None:
    one, other = (
        split_rows(options(write_rows(tmp_path / f"{name}.jsonl", rows(numbers))))
        for name, numbers in (("one", range(50)), ("other", reversed(range(50))))
    )
    for part in ("train", "development", "test"):
        assert {row.digest for row in getattr(one, part)} == {row.digest for row in getattr(other, part)}


def test_equal_rows_go_to_the_same_part(tmp_path: Path, write_rows: Write) -> None:
    data = write_rows(tmp_path / "rows.jsonl", rows([*range(20)] * 3))
    parts = split_rows(options(data))
    kinds = [{row.digest for row in part} for part in (parts.train, parts.development, parts.test)]
    assert sum(map(len, kinds)) == len(set().union(*kinds)) == 20


def test_given_files_are_taken_as_they_are(tmp_path: Path, write_rows: Write) -> None:
    data, development, test = (
        write_rows(tmp_path / f"{name}.jsonl", rows(numbers))
        for name, numbers in (("train", range(10)), ("dev", range(10, 13)), ("test", range(20, 25)))
    )
    parts = split_rows(options(data, eval_data=str(development), test_data=str(test)))
    assert (len(parts.train), len(parts.development), len(parts.test)) == (10, 3, 5)
    assert set(parts.sources) == {str(data), str(development), str(test)}


def test_files_hold_the_rows_as_they_were(tmp_path: Path, write_rows: Write) -> None:
    data = write_rows(
        tmp_path / "rows.jsonl", [{"body": f"text {i}", "label": "ab"[i % 2], "id": i} for i in range(10)]
    )
    parts = split_rows(options(data, columns={"text": "body"}))
    files = parts.write(tmp_path / "parts")
    written = [json.loads(line) for line in files.train.read_text(encoding="utf-8").splitlines()]
    assert written == [dict(row.fields) for row in parts.train]
    assert set(written[0]) == {"body", "label", "id"}


@pytest.mark.parametrize("twin", ["row 3", "  ROW   3 "])
def test_test_rows_that_are_training_rows_are_refused(
    twin: str, tmp_path: Path, write_rows: Write, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_rows(tmp_path / "train.jsonl", rows(range(10)))
    test = write_rows(tmp_path / "test.jsonl", [*rows(range(20, 24)), {"text": twin, "label": "b"}])
    with pytest.raises(DataError, match=r"1 of 5 test rows are (training|development) rows too: .*test.jsonl:5 = .*:4"):
        split_rows(options(data, test_data=str(test)))
    with caplog.at_level(logging.WARNING, "petune"):
        split_rows(options(data, test_data=str(test), allow_overlap=True))
    assert "measured all the same, as asked" in caplog.text


def test_bad_lines_are_told_with_the_user_s_own_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": 3, "label": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:2: 'text' is a number"):
        split_rows(options(path))


def test_too_few_rows_to_split(tmp_path: Path, write_rows: Write) -> None:
    with pytest.raises(DataError, match="would set 0 of 2 rows aside"):
        split_rows(options(write_rows(tmp_path / "rows.jsonl", rows(range(2)))))


def test_a_digest_is_of_what_is_said() -> None:
    pair = content_digest(Pair("a b", " c", is_label=False))
    assert pair == content_digest(Pair("A  b", "c", is_label=True))
    assert pair != content_digest(Pair("a", "b c", is_label=False))
    assert content_digest(Text("x")) != content_digest(Text("y"))
    turns = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"})
    assert content_digest(Conversation(turns)) == content_digest(Conversation(turns))
    assert content_digest(Conversation(turns)) != content_digest(Conversation(turns[::-1]))


def test_what_json_has_no_word_for_is_written_all_the_same(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "text": [f"row {i}" for i in range(12)],
            "label": ["a", "b"] * 6,
            "score": [float("nan"), 0.5] * 6,
            "when": [datetime(2024, 1, 1 + i) for i in range(12)],
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet")
    options = CompareOptions.model_validate({"data": str(tmp_path / "rows.parquet")})
    files = split_rows(options).write(tmp_path)
    kept = [json.loads(line) for path in (files.train, files.test) for line in path.read_text().splitlines()]
    assert {row["score"] for row in kept} == {None, 0.5}
    assert all(row["when"].startswith("2024-01-") for row in kept)


def test_what_is_wrong_with_any_file_is_told_at_once(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a", "label"\n', encoding="utf-8")
    options = CompareOptions.model_validate(
        {"data": str(tmp_path / "train.jsonl"), "test_data": str(tmp_path / "test.jsonl")}
    )
    with pytest.raises(DataError) as error:
        split_rows(options)
    assert "train.jsonl:1" in str(error.value)
    assert "test.jsonl:1" in str(error.value)
