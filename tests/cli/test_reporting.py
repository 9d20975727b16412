import pytest

from petune.cli.reporting import print_data_reports, print_metrics, say, settings_text
from petune.data.report import DataReport


def report(source: str) -> DataReport:
    return DataReport(
        source=source,
        layout="text",
        rows_read=2,
        rows_kept=2,
        rows_cut=0,
        dropped={},
        max_length=8,
        lengths={"min": 1, "max": 4},
        total_tokens=5,
        label_tokens=5,
        example="⟦a⟧",
        example_origin=f"{source}:1",
    )


def test_settings_as_one_writes_them() -> None:
    assert settings_text({"learning_rate": 4e-05, "r": 8, "use_rslora": True}) == (
        "learning_rate=4e-05 r=8 use_rslora=True"
    )


def test_metrics_stand_in_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_metrics({"loss": 1.23456, "accuracy": 1.0})
    print_metrics({})
    assert capsys.readouterr().out == "loss      1.2346\naccuracy  1.0000\n"


def test_validation_rows_are_reported_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    print_data_reports(report("a.jsonl"), None)
    alone = capsys.readouterr().out
    assert alone == f"{report('a.jsonl').render()}\n\n"
    print_data_reports(report("a.jsonl"), report("b.jsonl"))
    assert f"validation rows:\n{report('b.jsonl').render()}\n" in capsys.readouterr().out


def test_a_line_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    say("a")
    say()
    assert capsys.readouterr().out == "a\n\n"
