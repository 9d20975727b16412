"""The race of generation compares texts, counts tokens and judges."""

import json
from pathlib import Path
from typing import Any

import generation
import pytest


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command on answers that are made up, and return exit code and results."""
    asked: list[dict[str, Any]] = []

    def worker(work: Any, name: str, threads: int, **request: Any) -> dict[str, Any]:
        if name == "generation_start":
            return {"prompts": ["a film"] * request["rows"]}
        asked.append(request)
        rows, seconds = len(request["prompts"]), {"petune": 2.0, "default": 5.0, "tuned": 3.0}[request["manner"]]
        text = "other" if request["contest"] == "prefix_tuning" and request["manner"] == "petune" else "good"
        tokens = [request["new_tokens"]] * rows
        return {"seconds": [seconds, seconds + 1], "texts": [text] * rows, "tokens": tokens, "peak": generation.MIB}

    monkeypatch.setattr(generation, "run_worker", worker)

    def run(*arguments: str) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
        asked.clear()
        code = generation.main([*arguments, "--output", str(tmp_path / "results.json")])
        return code, json.loads((tmp_path / "results.json").read_text()), asked

    return run


def test_bar_and_figures(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, results, asked = bench("--methods", "lora", "--repeats", "2")
    assert code == 0
    assert results["methods"]["lora"]["same_texts"] == 16
    assert [request["dtype"] for request in asked] == ["float32"] * 2 + ["bfloat16"] * 6
    assert [request["one_by_one"] for request in asked] == [True] * 2 + [False] * 6
    printed = capsys.readouterr().out
    assert "| lora | petune | 512 (512 to 512) |  |  | 1 | 16 of 16 |" in printed
    assert "| lora | PEFT, default | 205 (205 to 205) | x 2.50 (2.50 to 2.50) | x 2 | 1 |  |" in printed
    assert "| lora | PEFT, tuned | 341 (341 to 341) | x 1.50 (1.50 to 1.50) |  | 1 |  |" in printed


def test_a_missed_bar_fails_unless_the_edition_is_small(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "SPEED_BAR", 2.6)
    assert bench("--methods", "lora", "--repeats", "1")[0] == 1
    monkeypatch.setattr(generation, "SPEED_BAR", 2.5)
    assert bench("--methods", "lora", "--repeats", "1")[0] == 0


def test_a_small_edition_judges_no_timing(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "SPEED_BAR", 2.6)
    assert bench("--methods", "lora", "--quick")[0] == 0


def test_methods_that_the_file_holds_are_not_timed_again(bench: Any) -> None:
    _, first, _ = bench("--methods", "lora", "--repeats", "1")
    _, results, asked = bench("--methods", "lora", "prompt_tuning", "--repeats", "1")
    assert {request["contest"] for request in asked} == {"prompt_tuning"}
    assert results["methods"]["lora"] == first["methods"]["lora"]
    with pytest.raises(SystemExit, match=r"results\.json holds a run with other repeats"):
        bench("--methods", "lora", "--repeats", "2")


def test_other_texts_fail(bench: Any) -> None:
    code, results, _ = bench("--methods", "prefix_tuning", "--quick")
    assert (code, results["methods"]["prefix_tuning"]["same_texts"]) == (1, 0)


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(SystemExit, match="whole numbers of 1 or more"):
        generation.parse(["--rows", "0"])
