import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.comparison.job import Job
from petune.comparison.record import Trial
from petune.comparison.run import compare
from petune.comparison.watching import Unwatched
from petune.errors import Interrupted

Keys = Callable[..., dict[str, Any]]


def child() -> int:
    """Return the number of the one process that was started from here."""
    (number,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(number)


class Killer(Unwatched):
    """Ends the process of trials of one seed at their first step, as often as it is told to."""

    def __init__(self, seed: int, times: int, how: signal.Signals = signal.SIGKILL) -> None:
        self.steps = 0
        self.ran: list[tuple[int, str]] = []
        self._seed = seed
        self._times = times
        self._how = how

    def stepped(self, job: Job, step: int, total: int) -> None:
        self.steps += 1
        if job.seed == self._seed and self._times:
            self._times -= 1
            os.kill(child(), self._how)

    def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
        self.ran.append((trial.seed, trial.status))


def test_results_are_those_of_this_process(compare_keys: Keys, tmp_path: Path) -> None:
    keys = compare_keys(seeds=[1, 2], cpus_per_trial=1)
    inline = compare(keys).trials
    killer = Killer(seed=2, times=1)
    local = compare({**keys, "engine": "local", "output_dir": str(tmp_path / "local")}, watcher=killer).trials
    assert [trial.id for trial in local] == [trial.id for trial in inline]
    assert killer.ran == [(1, "done"), (2, "done")]
    for one, other in zip(inline, local, strict=True):
        for field in ("status", "development", "test", "scores", "train_loss", "eval_loss", "trainable_parameters"):
            assert getattr(one, field) == getattr(other, field), field
        files = [tmp_path / out / str(one.adapter) / "adapter_model.safetensors" for out in ("out", "local")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (signal.SIGKILL, "its process was ended by SIGKILL, as the system does where memory runs out"),
        (signal.SIGTERM, "its process was stopped by SIGTERM"),
    ],
)
def test_a_trial_that_kills_its_process_is_given_up_and_the_rest_goes_on(
    compare_keys: Keys, how: signal.Signals, reason: str
) -> None:
    killer = Killer(seed=1, times=1, how=how)
    found = compare(compare_keys(seeds=[1, 2], engine="local", budget=200, retries=0), watcher=killer)
    first, second = found.trials
    assert (first.status, second.status) == ("failed", "done")
    assert first.reason == reason
    assert found.finished is not None


def test_a_stop_leaves_a_checkpoint(compare_keys: Keys, tmp_path: Path) -> None:
    class Stopping(Unwatched):
        def stepped(self, job: Job, step: int, total: int) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    keys = compare_keys(engine="local", budget=5000)
    with pytest.raises(Interrupted, match="stopped after 0 of 1 trials") as error:
        compare(keys, watcher=Stopping())
    assert error.value.exit_code == 143
    assert list((tmp_path / "out" / "trials").glob("*/adapter/checkpoint-*"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_trial_whose_own_process_is_stopped_goes_on_from_its_checkpoint(
    compare_keys: Keys, how: signal.Signals
) -> None:
    killer = Killer(seed=1, times=1, how=how)
    found = compare(compare_keys(seeds=[1, 2], engine="local", budget=200), watcher=killer)
    assert [trial.status for trial in found.trials] == ["done", "done"]
    assert killer.steps == 400, "steps were done again"
