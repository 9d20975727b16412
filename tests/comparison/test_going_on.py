"""A comparison that goes on: what it keeps of its former call, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from petune.checkpoint.manifest import file_digest
from petune.comparison import machine, unit_runner
from petune.comparison.going_on import OWN
from petune.comparison.record import Comparison
from petune.comparison.reporting.sections import report_of
from petune.comparison.run import compare, plan
from petune.errors import OutputFolderError

Keys = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every trial well at once."""
    monkeypatch.setattr(unit_runner, "perform", lambda job, *_, **__: job.record("done", development={"accuracy": 0.5}))


def copied(keys: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the keys with the rows in a file of this name."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(Path(keys["data"]).read_bytes())
    return {**keys, "data": str(path)}


def test_files_of_the_user_s_own_are_told_from_the_comparison_s(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = copied(compare_keys(), Path("data/train.jsonl"))
    found = compare(keys).data
    assert found["source data/train.jsonl"] == file_digest(Path("data/train.jsonl"))
    assert found["data/train.jsonl"] == file_digest(Path("out/data/train.jsonl"))


def test_a_source_may_change_as_long_as_the_rows_stay(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = copied(compare_keys(), Path("data/reviews.jsonl"))
    first = compare(keys)
    with Path("data/reviews.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert compare(keys, resume=True).trials == first.trials


def test_a_folder_of_an_earlier_version_goes_on(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = copied(compare_keys(), Path("data/reviews.jsonl"))
    first = compare(keys)
    path = tmp_path / "out" / "comparison.json"
    content = json.loads(path.read_bytes())
    kept = {name: digest for name, digest in content["data"].items() if not name.startswith(("base ", "file "))}
    content["data"] = {name.removeprefix("source "): digest for name, digest in kept.items()}
    path.write_text(Comparison.model_validate(content).model_dump_json(), encoding="utf-8")
    assert compare(keys, resume=True).trials == first.trials


def test_methods_bases_and_seeds_are_added_to_those_that_are_there(
    compare_keys: Keys, tmp_path: Path, tiny_folder: str
) -> None:
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    first = compare(compare_keys(methods=["ia3"], rate_factors=[1, 3], seeds=[7, 8], baselines=True))
    keys = compare_keys(methods=["lora"], models=[str(other)], rate_factors=[1, 3], seeds=[9])
    planned = plan(keys, resume=True)
    assert planned.progress.ended == len(first.trials)
    found = compare(keys, resume=True)
    assert [trial for trial in found.trials if trial in first.trials] == first.trials, "trials are lost, or run again"
    finals = {(trial.base, trial.method, trial.seed) for trial in found.trials if trial.stage == "final"}
    assert finals == {(b, m, s) for b in (tiny_folder, str(other)) for m in ("ia3", "lora", "full") for s in (7, 8, 9)}
    assert {trial.seed for trial in found.trials if trial.stage == "search"} == {7}
    assert found.recipe["seeds"] == [7, 8, 9]
    assert [entry["method"] for entry in found.recipe["methods"]] == ["ia3", "full", "hard_prompts", "lora"]
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()) == found.recipe


def test_a_baseline_with_settings_comes_beside_the_plain_one(compare_keys: Keys) -> None:
    first = compare(compare_keys(methods=["ia3"], baselines=True))
    entry = {"method": "full", "settings": {"learning_rate": 1e-3}}
    found = compare(compare_keys(methods=[entry], baselines=True), resume=True)
    assert [trial for trial in found.trials if trial in first.trials] == first.trials, "trials are lost, or run again"
    assert {trial.entry for trial in found.trials if trial.method == "full"} == {"full", "full learning_rate=0.001"}


def test_an_entry_may_be_searched_anew(compare_keys: Keys) -> None:
    entry = {"method": "lora", "search": {"r": [2, 4]}}
    compare(compare_keys(methods=["lora"]))
    found = compare(compare_keys(methods=[entry]), resume=True)
    assert [trial.settings["r"] for trial in found.trials if trial.stage == "search"] == [2, 4]
    assert len(found.recipe["methods"]) == 1


def test_an_overwritten_comparison_leaves_nothing(compare_keys: Keys) -> None:
    compare(compare_keys(methods=["ia3"], seeds=[1]))
    assert [(t.method, t.seed) for t in compare(compare_keys(seeds=[2]), overwrite=True).trials] == [("lora", 2)]


def test_another_metric_base_or_list_of_tokens_is_told_from_the_former(
    compare_keys: Keys, tmp_path: Path, tiny_folder: str
) -> None:
    metric, tokens, config = tmp_path / "own.py", tmp_path / "tokens.txt", Path(tiny_folder) / "generation_config.json"
    metric.write_text("def metric(predictions, references):\n    return 1.0\n", encoding="utf-8")
    tokens.write_text("<row>\n", encoding="utf-8")
    entry = {"method": "lora", "settings": {"new_tokens": str(tokens)}}
    keys = compare_keys(metric=str(metric), methods=[entry])
    first = compare(keys)
    for path, name in ((metric, f"file {metric}"), (tokens, f"file {tokens}"), (config, f"base {tiny_folder}")):
        former = path.read_text(encoding="utf-8")
        path.write_text(f"{former}\n ", encoding="utf-8")
        with pytest.raises(OutputFolderError, match=rf"what they rest on changed \({re.escape(name)}\)"):
            compare(keys, resume=True)
        with pytest.raises(OutputFolderError, match="begin anew with --overwrite"):
            plan(keys, resume=True)
        path.write_text(former, encoding="utf-8")
    assert compare(keys, resume=True).trials == first.trials
    metric.write_text("def metric(predictions, references):\n    return 2.0\n", encoding="utf-8")
    compare(keys, overwrite=True)


def test_texts_are_no_files(compare_keys: Keys) -> None:
    entry = {
        "method": "prompt_tuning",
        "settings": {"prompt_tuning_init": "text", "prompt_tuning_init_text": "a " * 4000},
    }
    found = compare(compare_keys(methods=[entry]))
    assert [name.partition(" ")[0] for name in found.data] == [*OWN, "source", "base"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metric": "loss"}, "metric is 'loss', was None"),
        ({"budget": 3}, "budget is 3.0, was 2.0"),
        ({"weight_decay": 0.1}, "weight_decay is 0.1, was"),
    ],
)
def test_other_trials_are_another_comparison(compare_keys: Keys, changes: dict[str, Any], said: str) -> None:
    first = compare(compare_keys())
    for call in (compare, plan):
        with pytest.raises(OutputFolderError, match=rf"holds trials of another comparison \({said}"):
            call(compare_keys(**changes), resume=True)
    assert compare(compare_keys(retries=None, keep_adapters=False), resume=True).trials == first.trials


def test_another_machine_is_told(compare_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = machine.facts
    assert compare(compare_keys()).earlier_machines == []
    monkeypatch.setattr(machine, "facts", lambda device: {**usual(device), "processor": "another"})
    moved = compare(compare_keys(seeds=[3]), resume=True)
    assert [found["processor"] for found in moved.earlier_machines] == [usual("cpu")["processor"]]
    assert "Trials of earlier calls ran on another machine" in report_of(moved).summary
    assert compare(compare_keys(seeds=[3]), resume=True).earlier_machines == moved.earlier_machines
    assert compare(compare_keys(), overwrite=True).earlier_machines == []
