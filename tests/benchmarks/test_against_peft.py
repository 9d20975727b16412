"""The command: its options, and its quick edition from end to end."""

import json
from pathlib import Path

import against_peft
import pytest
from race.settings import QUICK, Settings
from race.table import Row
from race.work import Row as TokenRow
from race.work import Work


def settings(*arguments: str) -> Settings:
    return against_peft.settings_of(against_peft.parse(arguments))


def test_sizes_of_the_editions() -> None:
    assert settings("--threads", "2") == Settings(threads=2)
    assert settings("--quick", "--threads", "2") == Settings(**QUICK, threads=2)
    assert settings("--quick", "--rows", "320").rows == 320


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rows", "100"], "give a multiple of 16"), (["--repeats", "0"], "repeats: give whole numbers of 1 or more")],
)
def test_sizes_that_make_no_race(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        settings(*arguments)


def test_missed() -> None:
    told, met, failed = (Row("", "", "", "", met=value) for value in (None, True, False))
    assert not against_peft.missed([told, met])
    assert against_peft.missed([met, failed])


def test_the_work_comes_back_as_written(tmp_path: Path) -> None:
    work = Work(tmp_path)
    sizes = Settings(rows=32, peers=("default",))
    rows = [TokenRow([5, 6, 7], [-100, 6, 7]), TokenRow([8, 9], [8, 9])]
    work.write_settings(sizes)
    work.write_rows(rows)
    work.write_plan([[1], [0, 1]])
    assert work.settings == sizes
    assert work.read_rows() == rows
    assert work.tokens_of_steps() == [2, 5]
    assert work.describe()["tokens"] == 5
    assert work.describe()["label_tokens"] == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_edition_passes_its_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "results.json"
    assert against_peft.main(["--quick", "--output", str(output)]) == 0
    results = json.loads(output.read_text(encoding="utf-8"))
    judged = [gate for gate in results["gates"] if gate["bar"] is not None]
    assert len(judged) == 8
    assert all(gate["passed"] for gate in judged)
    assert {timing["side"] for timing in results["timings"]} == {"petune", "same-order"}
    assert results["quality"]["peft"]["accuracy"] > 0.5
    assert "step-0 loss to the reference, float32" in capsys.readouterr().out
