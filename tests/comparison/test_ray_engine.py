import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from petune.comparison import ray_engine
from petune.comparison.job import Job
from petune.comparison.ray_engine import connect, needs_of, room_on
from petune.comparison.recipe import CompareOptions
from petune.comparison.record import Trial
from petune.comparison.run import compare
from petune.comparison.watching import Unwatched
from petune.errors import Interrupted, ResourceError

# Ray closes its files and processes late, which Python remarks on when the garbage is collected.
pytestmark = pytest.mark.filterwarnings("default")

Keys = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """A cluster of this machine that holds two trials at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # or a token is written to the user's folder
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def workers() -> list[int]:
    """Return the numbers of the processes that run trials."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended in the meantime
            if path.read_bytes().startswith(b"ray::RayWorker.run"):
                found.append(int(path.parent.name))
    return found


def when_running(action: Callable[[int], None]) -> threading.Thread:
    """Call ``action`` with the process of the first trial, once one runs; those of former comparisons may still end."""
    former = workers()

    def wait() -> None:
        while not (found := [number for number in workers() if number not in former]):
            time.sleep(0.05)
        action(found[0])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_results_are_those_of_this_process_even_where_a_worker_is_lost(compare_keys: Keys, tmp_path: Path) -> None:
    class Killing(Unwatched):
        """Ends the process of one of the final trials."""

        def __init__(self) -> None:
            self.began_of: list[str] = []

        def began(self, job: Job) -> None:
            self.began_of.append(job.stage)

        def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
            if self.began_of == ["search", "search"] and trial.stage == "search":
                self.began_of.append("killing")
                when_running(lambda number: os.kill(number, signal.SIGKILL))

    keys = compare_keys(rate_factors=[1, 3], seeds=[1, 2], budget=40, cpus_per_trial=1)
    inline = compare(keys).trials
    killing = Killing()
    found = compare({**keys, "engine": "ray", "output_dir": str(tmp_path / "ray")}, watcher=killing).trials
    assert killing.began_of == ["search", "search", "killing", "final", "final", "final"]
    there = {trial.id: trial for trial in found}
    assert there.keys() == {trial.id for trial in inline}
    for one in inline:
        other = there[one.id]
        for field in ("status", "development", "test", "scores", "train_loss", "eval_loss", "trials_in_pass"):
            assert getattr(one, field) == getattr(other, field), field
        if one.adapter is not None:
            files = [tmp_path / out / one.adapter / "adapter_model.safetensors" for out in ("out", "ray")]
            assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "ray").glob(".ray-*"))


def test_a_worker_lost_too_often_a_stop_and_going_on(
    compare_keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A training that does not come to its end when asked to would let the test run out of time.
    monkeypatch.setattr(ray_engine, "_PATIENCE", 3600)

    def checkpoints() -> set[Path]:
        return {path.parents[1] for path in (tmp_path / "out" / "trials").glob("*/adapter/checkpoint-*")}

    def course_of(trial: Path) -> list[Any]:
        path = trial / "adapter" / "curve.json"
        points: list[Any] = json.loads(path.read_text(encoding="utf-8"))["points"] if path.is_file() else []
        return points

    def kill(number: int) -> None:
        while len([trial for trial in checkpoints() if course_of(trial)]) < 2:
            time.sleep(0.05)
        os.kill(number, signal.SIGKILL)

    class Stopping(Unwatched):
        def ended(self, job: Job, trial: Trial, *, reused: bool) -> None:
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    keys = compare_keys(engine="ray", budget=3000, evaluations=60, retries=0, cpus_per_trial=1, seeds=[1, 2])
    when_running(kill)
    with pytest.raises(Interrupted, match="stopped after 1 of 2 trials"):
        compare(keys, watcher=Stopping())
    (record,) = (tmp_path / "out" / "trials").glob("*/trial.json")
    lost = Trial.model_validate_json(record.read_bytes())
    assert lost.status == "failed"
    assert str(lost.reason).startswith("its worker was lost: ActorDiedError: The actor died unexpectedly")
    assert len(checkpoints()) == 2

    (before,) = [course_of(path) for path in checkpoints() if path != record.parent]
    found = {trial.id: trial for trial in compare(keys, resume=True).trials}
    assert found.pop(lost.id) == lost
    (stopped,) = found.values()
    assert stopped.status == "done"
    curve = [point.model_dump() for point in stopped.curve]
    assert curve[: len(before)] == before, "steps were done again: times are none of the first call"
    assert 0 < before[-1]["step"] < curve[-1]["step"] == 3000


def test_a_trial_whose_own_worker_is_stopped_goes_on(compare_keys: Keys) -> None:
    began: list[str] = []

    class Beginnings(Unwatched):
        def began(self, job: Job) -> None:
            began.append(job.id)

    when_running(lambda number: os.kill(number, signal.SIGTERM))
    (trial,) = compare(compare_keys(engine="ray", cpus_per_trial=1, budget=40), watcher=Beginnings()).trials
    assert trial.status == "done"
    assert began == [trial.id] * 2


def test_what_a_trial_needs() -> None:
    needs = needs_of(
        CompareOptions(data="x", engine="ray", cpus_per_trial=2, gpus_per_trial=0.5, memory_per_trial="2GiB")
    )
    assert needs == {"num_cpus": 2, "num_gpus": 0.5, "memory": 2 * 2**30}
    node = {"CPU": 16.0, "GPU": 2.0, "memory": 7.0 * 2**30}
    assert room_on(node, needs) == 3
    assert room_on({"CPU": 16.0}, needs) == 0
    assert room_on({"CPU": 16.0}, needs_of(CompareOptions(data="x", engine="ray", cpus_per_trial=5, device="cpu"))) == 3


def test_a_cluster_that_holds_no_trial(compare_keys: Keys) -> None:
    message = (
        "no node of the Ray cluster can hold a trial, which is to have 64 CPUs, 0 GPUs; there are nodes with 2 CPUs"
    )
    with pytest.raises(ResourceError, match=message):
        compare(compare_keys(engine="ray", cpus_per_trial=64))


def test_a_cluster_that_is_there_is_used() -> None:
    assert connect(None) is False
