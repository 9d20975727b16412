"""A plan is of the same call of compare; what is measured for it is told."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from petune.comparison import unit_runner
from petune.comparison.folder import Folder
from petune.comparison.job import Job
from petune.comparison.plan import Track
from petune.comparison.record import Trial
from petune.comparison.run import compare, plan
from petune.comparison.watching import Progress, Unwatched
from petune.errors import ConfigError, DataError, Interrupted, OutputFolderError

Keys = Callable[..., dict[str, Any]]


class StopAfter(Unwatched):
    """Stops everything after some trials."""

    def __init__(self, trials: int) -> None:
        self._left = trials

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def test_a_plan_runs_and_writes_nothing(compare_keys: Keys, tmp_path: Path) -> None:
    keys = compare_keys(methods=["lora", "bitfit"], rate_factors=[1, 3], seeds=[1, 2])
    before = plan(keys)
    assert not (tmp_path / "out").exists()
    assert (before.progress.trials, before.progress.ended) == (4, 0)
    assert before.progress.seconds_left > 0
    with pytest.raises(Interrupted):
        compare(keys, watcher=StopAfter(3))
    later = plan(keys, resume=True)
    assert (later.progress.trials, later.progress.ended) == (4, 3)


def test_a_plan_is_of_the_same_call_of_compare(compare_keys: Keys, tmp_path: Path) -> None:
    keys = compare_keys(seeds=[1, 2])
    compare(keys)
    (record, *_) = (tmp_path / "out" / "trials").glob("*/trial.json")
    failed = Trial.model_validate_json(record.read_bytes()).model_copy(update={"status": "failed", "reason": "broken"})
    Folder(tmp_path / "out").save(failed)

    def ended(**how: bool) -> int:
        return plan(keys, **how).progress.ended

    assert (ended(resume=True), ended(resume=True, retry=True), ended(overwrite=True)) == (2, 1, 0)
    with pytest.raises(OutputFolderError, match="holds a comparison already"):
        plan(keys)
    with pytest.raises(ConfigError, match="give one of them"):
        plan(keys, resume=True, overwrite=True)
    with pytest.raises(OutputFolderError, match=r"on other rows \(data/train.jsonl"):
        plan(compare_keys(test_split=0.4), resume=True)


class Measuring(Unwatched):
    """Notes what is measured, and when it is over."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def measuring(self, track: Track, number: int, total: int) -> None:
        self.told.append((track.entry.label, number, total))

    def planned(self, tracks: Sequence[Track], progress: Progress) -> None:
        self.told.append("planned")

    def closed(self) -> None:
        self.told.append("closed")


def test_what_is_measured_is_told(compare_keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_runner, "perform", lambda job, *_, **__: job.record("done"))
    keys = compare_keys(methods=["lora", "bitfit", "ia3"])
    for run_it, end in ((plan, []), (compare, ["planned"])):
        watcher = Measuring()
        run_it(keys, watcher=watcher)  # type: ignore[operator]
        assert watcher.told == [("lora", 1, 2), ("ia3", 2, 2), *end, "closed"]


@pytest.mark.parametrize("overlong", ["drop", "truncate"])
def test_all_methods_have_the_same_rows_where_one_leaves_little_room(
    overlong: str, compare_keys: Keys, tmp_path: Path
) -> None:
    rows = [
        {"text": "long " * (21 if i % 3 else 4) + str(i), "label": "positive" if i % 2 else "negative"}
        for i in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    soft = {"method": "prompt_tuning", "settings": {"num_virtual_tokens": 20}}
    keys = compare_keys(methods=["lora", soft], overlong=overlong, evaluations=1)
    trials = compare(keys).trials
    assert {trial.status for trial in trials} == {"done"}
    tokens = {trial.curve[-1].tokens for trial in trials}
    assert len(tokens) == 1, "rows differ"
    assert len({len(trial.scores) for trial in trials}) == 1


def test_rows_that_are_too_long_for_one_method_are_told_before_the_first_trial(
    compare_keys: Keys, tmp_path: Path
) -> None:
    rows = [{"text": "long " * 21 + str(i), "label": "positive" if i % 2 else "negative"} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    soft = {"method": "prompt_tuning", "settings": {"num_virtual_tokens": 20}}
    plan(compare_keys(methods=["lora"]))
    with pytest.raises(DataError, match=r"longer than 108 tokens.*and prompt_tuning adds 20 tokens to each"):
        plan(compare_keys(methods=["lora", soft]))


def test_what_is_wrong_with_rows_is_told_with_the_user_s_own_lines(
    compare_keys: Keys, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(24)]
    data = write_rows(tmp_path / "all.jsonl", [*rows[:11], {"text": "long " * 40, "label": "a"}, *rows[11:]])
    test = write_rows(tmp_path / "test.jsonl", [{"text": "fine", "label": "a"}, {"text": "odd", "label": "strange"}])
    with pytest.raises(DataError, match=rf"1 of \d+ rows are longer .* at {data}:12\)"):
        plan(compare_keys(data=str(data)))
    keys = compare_keys(data=str(data), overlong="drop", test_data=str(test))
    for task in ("causal_lm", "sequence_classification"):
        with pytest.raises(DataError, match=rf"'strange' at {test}:2\.") as caught:
            plan({**keys, "task": task})
        assert str(data) not in str(caught.value)
