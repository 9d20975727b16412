import json
from collections.abc import Callable


def test_the_report_is_printed(petune: Callable[..., str]) -> None:
    printed = petune("data", "inspect", "rows.jsonl", "--model", "tiny")
    assert "rows:    8 read, 8 kept" in printed
    assert "⟦ negative" in printed


def test_the_report_as_json(petune: Callable[..., str]) -> None:
    report = json.loads(petune("data", "inspect", "rows.jsonl#4", "--model", "tiny", "--train-on", "all", "--json"))
    assert report["rows_read"] == 4
    assert report["label_tokens"] > report["total_tokens"] / 2


def test_help_names_the_verb(petune: Callable[..., str]) -> None:
    assert "inspect" in petune("data", "--help")
