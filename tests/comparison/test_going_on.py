"""A comparison that goes on: what it keeps of its former call, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.checkpoint.manifest import file_digest
from petune.comparison import unit_runner
from petune.comparison.record import Comparison
from petune.comparison.run import compare

Keys = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every trial well at once."""
    monkeypatch.setattr(unit_runner, "perform", lambda job, *_, **__: job.record("done", development={"accuracy": 0.5}))


def copied(keys: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the keys with the rows in a file of this name."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(Path(keys["data"]).read_bytes())
    return {**keys, "data": str(path)}


def test_files_of_the_user_s_own_are_told_from_the_comparison_s(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = copied(compare_keys(), Path("data/train.jsonl"))
    found = compare(keys).data
    assert found["source data/train.jsonl"] == file_digest(Path("data/train.jsonl"))
    assert found["data/train.jsonl"] == file_digest(Path("out/data/train.jsonl"))


def test_a_source_may_change_as_long_as_the_rows_stay(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = copied(compare_keys(), Path("data/reviews.jsonl"))
    first = compare(keys)
    with Path("data/reviews.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert compare(keys, resume=True).trials == first.trials


def test_a_folder_of_an_earlier_version_goes_on(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = copied(compare_keys(), Path("data/reviews.jsonl"))
    first = compare(keys)
    path = tmp_path / "out" / "comparison.json"
    content = json.loads(path.read_bytes())
    content["data"] = {name.removeprefix("source "): digest for name, digest in content["data"].items()}
    path.write_text(Comparison.model_validate(content).model_dump_json(), encoding="utf-8")
    assert compare(keys, resume=True).trials == first.trials
