"""The comparison of runs at once and in turn counts and judges right."""

import json
from pathlib import Path
from typing import Any

import many_adapters
import pytest

MIB = many_adapters.MIB


def report(groups: list[list[int]], rows: int, steps: int, **_: Any) -> dict[str, Any]:
    """What a worker answers: a second a step and a quarter for each adapter beyond the first; 100 MiB, 10 for each."""
    operations = {"aten::mm": {"seconds": 3.0, "calls": 70}}
    found = []
    for seeds in groups:
        seconds = (1.0 + 0.25 * (len(seeds) - 1)) * steps
        times = {"seconds": seconds, "processor_seconds": 2 * seconds}
        losses = [[2.0 + 0.01 * seed] * steps for seed in seeds]
        profile = {"seconds": seconds, "products": 0.5 * steps, "longest": operations}
        found.append({**times, "losses": losses, "profile": profile})
    return {"groups": found, "peak": (100 + 10 * len(groups[0])) * MIB}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command on answers that are made up, and return exit code, printed text and results."""

    def worker(work: Any, name: str, threads: int, **asked: Any) -> dict[str, Any]:
        assert name == "together"
        return report(**asked)

    class NoReviews:
        train = tmp_path / "train.jsonl"

    monkeypatch.setattr(many_adapters, "run_worker", worker)
    monkeypatch.setattr(many_adapters, "movie_reviews", lambda *_: NoReviews)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        code = many_adapters.main([*arguments, "--output", str(tmp_path / "results.json")])
        return code, json.loads((tmp_path / "results.json").read_text())

    return run


def test_bars_and_figures(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, results = bench("--adapters", "8")
    two, sixteen = results["summary"]
    assert two["time"]["median"] == pytest.approx((1 + 0.25 * 7) / 8)
    assert two["memory"]["median"] == pytest.approx(180 / 880)
    assert (two["time_bar"], sixteen["time_bar"], code) == (0.6, 1.0, 0)
    printed = capsys.readouterr().out
    assert "| 2 rows a step, seconds | 22.0 | 64.0 | 0.34 (0.34 to 0.34) | at most 0.6 | met |" in printed
    assert "| 2 rows a step, of processors | 44.0 | 128.0 | 0.34 (0.34 to 0.34) |  |  |" in printed
    assert "| 16 rows a step, MiB of the processes | 180 | 880 | 0.20 (0.20 to 0.20) | at most 0.35 | met |" in printed
    assert results["profiles"] == []


def test_a_missed_time_is_profiled(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, results = bench("--adapters", "2", "--rows", "2", "--steps", "3", "--repeats", "1")
    assert code == 1
    assert results["summary"][0]["time"]["median"] == pytest.approx(1.25 / 2)
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "| at once | 1.00 | 1.50 |" in printed
    assert "| one alone, 2 times | 2.00 | 2.00 |" in printed
    assert "The products at once alone take 0.25 of the time in turn" in printed
    assert bench("--quick")[0] == 0, "too short to be judged"


def test_other_losses_fail(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def worker(work: Any, name: str, threads: int, **asked: Any) -> dict[str, Any]:
        answer = report(**asked)
        for found in answer["groups"]:
            found["losses"][0][1] *= 1 + 2e-4 * len(found["losses"])
        return answer

    monkeypatch.setattr(many_adapters, "run_worker", worker)
    code, results = bench("--quick")
    assert code == 1
    assert results["loss_distance"] == pytest.approx(2e-4, rel=0.01)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(SystemExit, match="whole numbers of 1 or more"):
        many_adapters.parse(["--adapters", "0"])
