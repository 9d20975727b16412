"""The table of what every method learns with its defaults."""

import json
from pathlib import Path

import learning
import pytest

RUNS = {
    "untrained": {"0": {"accuracy": 0.75}},
    "lora": {
        str(seed): {
            "accuracy": accuracy,
            "trainable_parameters": 1000,
            "bytes": 4096,
            "loss": 0.25,
            "learning_rate": 4e-4,
        }
        for seed, accuracy in ((1, 0.8), (2, 0.9))
    },
}


def test_the_table_tells_mean_and_least() -> None:
    lines = learning.render(RUNS, ["lora"], "accuracy").splitlines()
    assert lines[2] == "| untrained | | 0 | 0 | 0.750 | | | |"
    assert lines[3] == "| lora | 0.0004 | 1,000 | 4,096 | 0.850 | 0.800 | 2 | 0.250 |"
    assert len({line.count("|") for line in lines}) == 1


def test_runs_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "learning.json"
    path.write_text(json.dumps({"settings": {"rows": 10}, "runs": {}}))
    assert learning._results(path, {"rows": 10})["runs"] == {}
    with pytest.raises(SystemExit, match="choose another --output"):
        learning._results(path, {"rows": 20})


def test_all_methods_are_measured_unless_some_are_named() -> None:
    assert "lora" in learning.parse([]).methods
    assert learning.parse(["--methods", "full"]).methods == ["full"]
