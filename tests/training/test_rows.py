"""The rows of a run: what fits beside an adapter's virtual tokens, and what validation measures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.data.options import DataOptions
from petune.errors import DataError
from petune.tasks.registry import get
from petune.tasks.rows import TaskRows, read_rows_for
from petune.training.rows import data_format, encode_rows
from petune.training.run import train

Write = Callable[[Path, list[dict[str, str]]], Path]
LONG = {"prompt": "x" * 100, "completion": "y" * 20}  # 121 tokens of the tiny model's 128
SHORT = {"prompt": "x", "completion": "y"}


def read(options: DataOptions) -> TaskRows:
    draft = read_rows_for(options, task="causal_lm", seed=42)
    return TaskRows(get("causal_lm"), draft.options, draft.data, ())


@pytest.mark.parametrize("method", ["prefix_tuning", "prompt_tuning"])
def test_rows_that_virtual_tokens_leave_no_room_for_are_told_before_training(
    method: str, tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Write, keys: Callable[..., dict[str, Any]]
) -> None:
    data = str(write_rows(tmp_path / "long.jsonl", [LONG, SHORT]))
    base = tiny_base("llama")
    options = keys(data=data, method=method, num_virtual_tokens=10, max_steps=1)
    with pytest.raises(DataError, match=r"1 of 2 rows are longer than 118 tokens \(the longest has 121"):
        train(options, base=base)
    result = train({**options, "overlong": "drop"}, base=base, overwrite=True)
    assert (result.train_report.rows_kept, result.train_report.max_length) == (1, 118)
    result.model.detach("default")
    assert train({**options, "num_virtual_tokens": 7}, base=base, overwrite=True).train_report.rows_kept == 2


def test_validation_compares_rows_that_were_kept_whole(
    tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Write
) -> None:
    data = str(write_rows(tmp_path / "a.jsonl", [SHORT, SHORT]))
    eval_data = str(write_rows(tmp_path / "b.jsonl", [SHORT, {"prompt": "x", "completion": "y" * 30}, LONG]))
    options = DataOptions(data=data, eval_data=eval_data, max_length=20, overlong="truncate")
    rows = encode_rows(read(options), tiny_base())
    assert rows.eval_rows is not None
    assert rows.eval_examples is not None
    assert rows.eval_report is not None
    assert (rows.eval_report.rows_kept, rows.eval_report.rows_cut) == (2, 1)
    assert [example.origin for example in rows.eval_examples] == [f"{eval_data}:1"]
    without = DataOptions(data=data)
    assert encode_rows(read(without), tiny_base()).eval_report is None


def test_the_format_remembers_what_auto_found_and_the_label_words(
    tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Write
) -> None:
    data = str(write_rows(tmp_path / "a.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]))
    options, base = DataOptions(data=data), tiny_base()
    form = data_format(options, encode_rows(read(options), base).examples, base)
    assert form == {
        "layout": "text-label", "columns": None, "template": None, "target": None, "verbalizer": None,
        "chat": "auto", "labels": ["x", "y"],
    }  # fmt: skip
