import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from petune.cli import main as command_line
from petune.data.reading import read_rows
from petune.evaluation.head import read_log_probabilities


def test_every_row_is_answered_in_order(petune: Callable[..., str], adapter: str) -> None:
    petune("predict", "--adapter", adapter, "--data", "rows.jsonl", "--output", "answers.jsonl")
    answers = [json.loads(line) for line in Path("answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [answer["text"] for answer in answers] == [f"row {i}" for i in range(8)]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_rows_without_labels_are_answered(petune: Callable[..., str], adapter: str) -> None:
    Path("new.jsonl").write_text('{"text": "a new row"}\n')
    (line,) = petune("predict", "--adapter", adapter, "--data", "new.jsonl").splitlines()
    assert json.loads(line)["prediction"] in ("negative", "positive")


def test_text_of_any_script_is_kept(petune: Callable[..., str], adapter: str) -> None:
    Path("new.jsonl").write_text('{"text": "这部电影很好看 😀"}\n', encoding="utf-8")
    assert '"这部电影很好看 😀"' in petune("predict", "--adapter", adapter, "--data", "new.jsonl")


def test_answers_to_a_table_with_gaps_are_rows_again(petune: Callable[..., str], adapter: str) -> None:
    table = pyarrow.table({"text": ["a", "b"], "stars": [4.0, float("nan")], "most": [1.5, float("inf")]})
    pyarrow.parquet.write_table(table, "new.parquet")
    petune("predict", "--adapter", adapter, "--data", "new.parquet", "--output", "answers.jsonl")
    answers = read_rows("answers.jsonl").rows
    assert [(answer["stars"], answer["most"]) for answer in answers] == [(4.0, 1.5), (None, None)]


def test_a_column_that_an_answer_takes_the_place_of_is_told(
    petune: Callable[..., str], adapter: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": text, "prediction": "mine", "probabilities": 1, "score": 2} for text in "ab"]
    Path("new.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lines = petune("predict", "--adapter", adapter, "--data", "new.jsonl").splitlines()
    assert [(answer["score"], answer["prediction"] == "mine") for answer in map(json.loads, lines)] == [(2, False)] * 2
    told = [message for message in caplog.messages if "take the place" in message]
    assert told == ["answers take the place of the rows' own prediction and probabilities; rename what is to be kept"]


def test_plain_prompts_are_continued(petune: Callable[..., str]) -> None:
    Path("new.jsonl").write_text('{"prompt": "once"}\n')
    (line,) = petune("predict", "--model", "tiny", "--data", "new.jsonl", "--max-new-tokens", "3").splitlines()
    answer = json.loads(line)
    assert isinstance(answer["prediction"], str)
    assert "probabilities" not in answer


def test_rows_are_written_as_they_are_answered(
    petune: Callable[..., str], adapter: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("predict", "--adapter", adapter, "--data", "rows.jsonl", "--output", "answers.jsonl")
    petune(*command)
    whole = Path("answers.jsonl").read_text(encoding="utf-8")
    assert not Path("answers.jsonl.part").exists()
    Path("answers.jsonl").unlink()

    seen = []

    def fail_at_the_third_window(*arguments: Any, **options: Any) -> Any:
        seen.append(Path("answers.jsonl.part").read_text(encoding="utf-8") if seen else "")
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read_log_probabilities(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("petune.evaluation.predict._LABEL_WINDOW", 2)
        patch.setattr("petune.evaluation.likelihood.read_log_probabilities", fail_at_the_third_window)
        assert command_line.run(command) == 130
    said = capsys.readouterr().err
    assert "answers.jsonl is not complete: the first 4 rows are in answers.jsonl.part\n" in said
    assert said.endswith("petune: interrupted\n")
    assert not Path("answers.jsonl").exists()
    left = Path("answers.jsonl.part").read_text(encoding="utf-8")
    assert whole.startswith(left)
    assert [len(text.splitlines()) for text in seen] == [0, 2, 4]
    assert seen[-1] == left

    assert command_line.run(command) == 2
    assert "answers.jsonl.part exists already; give another --output, or --overwrite" in capsys.readouterr().err
    petune(*command, "--overwrite")
    assert Path("answers.jsonl").read_text(encoding="utf-8") == whole
    assert not Path("answers.jsonl.part").exists()


def test_settings_of_text_are_not_ignored_in_silence(adapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "--adapter", adapter, "--data", "rows.jsonl", "--max-new-tokens", "3"]
    assert command_line.run(command) == 0
    said = capsys.readouterr().err
    assert "warning: max_new_tokens would act on generated text, but the labels negative, positive are compared" in said


def test_an_output_file_is_replaced_only_when_asked(
    petune: Callable[..., str], adapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", "--adapter", adapter, "--data", "rows.jsonl", "--output", "answers.jsonl"]
    Path("answers.jsonl").write_text("mine\n")
    assert command_line.run(command) == 2
    assert "answers.jsonl exists already; give another --output, or --overwrite" in capsys.readouterr().err
    assert Path("answers.jsonl").read_text() == "mine\n"
    petune(*command, "--overwrite")
    assert len(Path("answers.jsonl").read_text().splitlines()) == 8
