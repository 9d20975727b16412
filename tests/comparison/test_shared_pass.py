"""Trials of a search in one pass: the results of trials alone, and times that add up."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from petune.comparison import shared_pass
from petune.comparison.job import Job
from petune.comparison.record import Comparison, Trial
from petune.comparison.run import compare
from petune.comparison.watching import Unwatched
from petune.errors import Interrupted

Keys = Callable[..., dict[str, Any]]

MEASURED_ANEW = {
    *("trials_in_pass", "peak_memory_bytes", "seconds", "wall_seconds", "tokens_per_second", "curve"),
    *("generation_tokens_per_second", "generation_latency_ratio", "command"),
}
NUMBERS = ("development", "test", "train_loss", "eval_loss", "best_eval_loss", "scores")


@pytest.fixture
def keys_of(compare_keys: Keys) -> Keys:
    """The keys of a small comparison in float32 with a search."""
    return partial(compare_keys, dtype="float32", rate_factors=[1, 10], budget=12)


def searched(comparison: Comparison) -> list[Trial]:
    return [trial for trial in comparison.trials if trial.stage == "search"]


def assert_the_same(one: Trial, other: Trial) -> None:
    """Check that a trial in a pass has found what it finds alone."""
    assert one.model_dump(exclude=MEASURED_ANEW | {*NUMBERS}) == other.model_dump(exclude=MEASURED_ANEW | {*NUMBERS})
    for name in NUMBERS:
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4), name
    for point, alone in zip(one.curve, other.curve, strict=True):
        assert (point.step, point.tokens) == (alone.step, alone.tokens)
        assert point.train_loss == pytest.approx(alone.train_loss, abs=1e-4)
        assert point.eval_loss == pytest.approx(alone.eval_loss, abs=1e-4)


@pytest.mark.parametrize(
    "entry",
    [
        "lora",
        {"method": "prompt_tuning", "search": {"num_virtual_tokens": [2, 5]}},
        {"method": "lora", "settings": {"new_tokens": ["row"]}},
    ],
)
def test_the_results_are_those_of_trials_alone(entry: Any, keys_of: Keys, tmp_path: Path) -> None:
    keys = keys_of(methods=[entry])
    together = compare(keys)
    alone = compare({**keys, "share_passes": False, "output_dir": str(tmp_path / "alone")})
    assert [trial.id for trial in together.trials] == [trial.id for trial in alone.trials]
    assert {trial.status for trial in together.trials} == {"done"}
    for one, other in zip(together.trials, alone.trials, strict=True):
        assert_the_same(one, other)
    assert max(trial.trials_in_pass for trial in searched(together)) == len(
        [trial for trial in searched(together) if trial.rung == 0]
    )
    assert {trial.trials_in_pass for trial in (*alone.trials, together.trials[-1])} == {1}
    assert not list((tmp_path / "out" / "trials").glob("*-search*/adapter"))


def test_times_are_parts_of_the_pass(keys_of: Keys) -> None:
    first, second, third = searched(compare(keys_of(rate_factors=[1, 3, 10], budget=9)))
    assert first.trials_in_pass == 3
    assert first.peak_memory_bytes is first.tokens_per_second is None
    assert first.seconds == pytest.approx(second.seconds, rel=0.3)
    assert first.seconds == first.curve[-1].seconds
    for trial in (first, second, third):
        assert 0 < (trial.seconds or 0) < (trial.wall_seconds or 0)


class SignalAt(Unwatched):
    """Stops everything in a step, once."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.steps: list[int] = []

    def stepped(self, job: Job, step: int, total: int) -> None:
        self.steps.append(step)
        if step == self._step:
            self._step = 0
            os.kill(os.getpid(), signal.SIGINT)


def test_a_pass_that_was_stopped_goes_on(keys_of: Keys, tmp_path: Path) -> None:
    keys = keys_of()
    with pytest.raises(Interrupted, match="stopped after 0 of 3 trials"):
        compare(keys, watcher=SignalAt(2))
    follower = SignalAt(0)
    resumed = compare(keys, resume=True, watcher=follower)
    assert follower.steps[:4] == [3, 3, 4, 4]
    whole = compare({**keys, "output_dir": str(tmp_path / "whole")})
    for one, other in zip(resumed.trials, whole.trials, strict=True):
        assert_the_same(one, other)


def test_a_damaged_pass_begins_anew(keys_of: Keys, tmp_path: Path) -> None:
    keys = keys_of()
    with pytest.raises(Interrupted):
        compare(keys, watcher=SignalAt(2))
    for tensors in (tmp_path / "out" / "trials").rglob("checkpoint-2/*.safetensors"):
        tensors.write_bytes(b"damaged")
    follower = SignalAt(0)
    assert {trial.status for trial in compare(keys, resume=True, watcher=follower).trials} == {"done"}
    assert follower.steps[:2] == [1, 1]


def test_one_that_diverges_leaves_the_others(keys_of: Keys, tmp_path: Path) -> None:
    entry = {"method": "lora", "search": {"learning_rate": [1e-3, 1e30, 1e-2]}}
    keys = keys_of(methods=[entry])
    found = compare(keys)
    good, bad, other, *_ = searched(found)
    assert (bad.status, bad.curve) == ("failed", [])
    assert "at step" in str(bad.reason)
    assert str(tmp_path / "out" / "trials" / good.id) not in str(bad.reason)
    alone = searched(compare({**keys, "share_passes": False, "output_dir": str(tmp_path / "alone")}))
    assert alone[1].status == "failed"
    assert_the_same(good, alone[0])
    assert_the_same(other, alone[2])
    assert not list((tmp_path / "out" / "trials" / bad.id).glob("adapter"))


def test_out_of_memory_together_is_run_one_by_one(keys_of: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> Iterator[Any]:
        raise MemoryError

    monkeypatch.setattr(shared_pass, "train_many", failing)
    found = compare(keys_of(rate_factors=[1, 3]))
    assert [(trial.status, trial.trials_in_pass) for trial in found.trials] == [("done", 1)] * 3
