import json
from collections.abc import Callable
from pathlib import Path

import pytest

from petune.cli import main as command_line


def test_a_base_is_measured(petune: Callable[..., str]) -> None:
    printed = petune("eval", "--model", "tiny", "--data", "rows.jsonl")
    assert printed.startswith("8 rows in ")
    assert "labels compared: negative, positive\n" in printed
    names = [line.split()[0] for line in printed.splitlines()[2:]]
    assert names == ["loss", "accuracy", "f1"]


def test_an_adapter_is_measured_on_its_own_base(petune: Callable[..., str], adapter: str) -> None:
    printed = petune("eval", "--adapter", adapter, "--data", "rows.jsonl", "--metrics", "loss,perplexity")
    assert [line.split()[0] for line in printed.splitlines()[1:]] == ["loss", "perplexity"]


def test_rows_that_are_too_long_are_left_out_of_every_metric(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"text": "long " * 12, "label": "positive"}) + "\n")
    command = ["eval", "--model", "tiny", "--data", "rows.jsonl", "--max-length", "30"]
    assert command_line.run(command) == 2
    assert "1 of 9 rows are longer than 30 tokens" in capsys.readouterr().err
    assert command_line.run([*command, "--overlong", "drop"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("8 rows in ")
    assert captured.err == "petune: 1 of 9 rows left out: longer than the maximum length of 30 tokens\n"
    assert petune(*command, "--overlong", "truncate").startswith("8 rows in ")


def test_metrics_are_written_as_json(petune: Callable[..., str]) -> None:
    printed = petune("eval", "--model", "tiny", "--data", "rows.jsonl", "--metrics", "accuracy", "--output", "m.json")
    written = json.loads(Path("m.json").read_text(encoding="utf-8"))
    assert f"accuracy  {written['metrics']['accuracy']:.4f}\n" in printed
    assert written["num_rows"] == 8


def test_the_file_of_metrics_is_replaced_only_when_asked(petune: Callable[..., str]) -> None:
    Path("m.json").write_text("mine")
    petune("eval", "--model", "tiny", "--data", "rows.jsonl", "--output", "m.json", "--overwrite")
    assert json.loads(Path("m.json").read_text())["num_rows"] == 8


def test_a_metric_of_ones_own(petune: Callable[..., str]) -> None:
    Path("mine.py").write_text("def rows(predictions, references):\n    return len(references)\n")
    printed = petune("eval", "--model", "tiny", "--data", "rows.jsonl", "--metrics", "mine.py:rows")
    assert printed.endswith("rows  8.0000\n")


def test_what_is_wrong_with_rows_and_metrics_is_told_before_the_base_loads(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("the base was loaded")

    monkeypatch.setattr("petune.api.load", fail)
    Path("bad.jsonl").write_text("{\n", encoding="utf-8")
    for command, said in (
        (["eval", "--data", "rows.jsonl", "--metrics", "acuracy"], "unknown metric 'acuracy'"),
        (["eval", "--data", "bad.jsonl"], "bad.jsonl:1"),
        (["predict", "--data", "bad.jsonl"], "bad.jsonl:1"),
        (["predict", "--data", "rovs.jsonl"], "rovs.jsonl"),
    ):
        assert command_line.run([*command, "--model", "tiny"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "said"), [("--task", "foo", "task"), ("--quantization", "3bit", "quantization")]
)
def test_a_wrong_choice_of_loading_is_bad_input(
    petune: Callable[..., str], capsys: pytest.CaptureFixture[str], flag: str, value: str, said: str
) -> None:
    for command in (["eval", "--data", "rows.jsonl"], ["generate", "--prompt", "a"]):
        assert command_line.run([*command, "--model", "tiny", flag, value]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"petune: error: '{said}' is ")
        assert value in error
