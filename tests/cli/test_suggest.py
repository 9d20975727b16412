import json
from collections.abc import Callable
from pathlib import Path

import pytest

from petune import methods
from petune.cli import main as command_line

pytestmark = pytest.mark.usefixtures("quick")


def test_the_table_the_reasons_and_the_lines_are_printed(petune: Callable[..., str]) -> None:
    printed = petune("suggest", "--model", "tiny", "--data", "rows.jsonl")
    lines = printed.splitlines()
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in methods.names())
    assert "rows:    8 of rows.jsonl (layout: text-label)" in printed
    assert "lora: On E2E with GPT-2 medium" in printed
    assert "(Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, https://arxiv.org/abs/" in printed
    assert "bitfit: this base has no biases" in printed
    assert "try first:     petune train --data rows.jsonl --model tiny\n" in printed
    assert "on your data:  petune compare --methods lora " in printed
    assert not Path("outputs").exists()


@pytest.mark.usefixtures("folder")
def test_what_is_measured_is_told_beside_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["suggest", "--model", "tiny", "--data", "rows.jsonl", "--json"]) == 0
    printed, told = capsys.readouterr()
    assert json.loads(printed)["model"] == "tiny"
    first = methods.names()[0]
    assert f"for the estimates: {first} on tiny, 1 of {len(methods.names())}" in told


def test_json(petune: Callable[..., str]) -> None:
    arguments = ("--model", "tiny", "--data", "rows.jsonl", "--num-train-epochs", "1")
    found = json.loads(petune("suggest", *arguments, "--json"))
    assert {method["method"] for method in found["methods"]} == set(methods.names())
    assert "--num-train-epochs 1.0" in found["train"]
    assert "--budget 1.0" in found["compare"]


def test_nothing_fits(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.comparison.machine.memory", lambda device: 1000)
    printed = petune("suggest", "--model", "tiny", "--data", "rows.jsonl")
    assert "lora: it needs 0.0 GiB at the least" in printed
    assert printed.endswith("Nothing fits this machine: take a smaller base, or a larger machine.\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "petune: error: no data: petune suggest --data FILE, or a hub data set id"),
        (["--data", "gone.jsonl", "--model", "tiny"], "gone.jsonl"),
        (["--data", "rows.jsonl", "--model", "gone"], "gone"),
        (["--data", "rows.jsonl", "--eval-data", "x"], "--eval-data"),
    ],
)
def test_errors_are_one_line(arguments: list[str], line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["suggest", *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
