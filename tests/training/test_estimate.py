"""What is said of an estimate, before and after the run."""

from dataclasses import replace

import pytest

from petune.training.estimate import Estimate, shown_seconds

MIB = 2**20
ESTIMATE = Estimate(seconds=100.0, memory=900 * MIB, model=500 * MIB, kept=300 * MIB, steps=40)


def test_before_the_run() -> None:
    (line,) = ESTIMATE.lines()
    assert line == (
        "estimate: about 2 min for 40 steps, 900.0 MiB at most (400.0 MiB above the loaded model, 300.0 MiB of them"
        " activations)"
    )
    _, ways = replace(ESTIMATE, recomputed="all of 3 blocks", most_tokens=1024).lines()
    assert ways == "memory budget: all of 3 blocks computed again, batches of at most 1,024 tokens"


def test_after_the_run() -> None:
    near = ESTIMATE.against(seconds=112.0, memory=1000 * MIB, steps=40)
    assert near == ["estimated time 2 min, measured 2 min; memory 900.0 MiB, measured 1000.0 MiB"]
    far = replace(ESTIMATE, seconds=120.0).against(seconds=60.0, memory=1200 * MIB, steps=40)
    assert far[1:] == [
        "warning: the estimate of time was 100% too high",
        "warning: the estimate of memory was 25% too low",
    ]
    assert len(ESTIMATE.against(seconds=59.0, memory=1200 * MIB, steps=40)) == 1, "a short run alarms nobody"
    stopped_early = ESTIMATE.against(seconds=50.0, memory=900 * MIB, steps=20)
    assert stopped_early == ["estimated memory 900.0 MiB, measured 900.0 MiB"]


def test_as_json() -> None:
    known = ESTIMATE.to_dict()
    assert (known["seconds"], known["memory_bytes"], known["recomputed"]) == (100.0, 900 * MIB, "")
    assert ESTIMATE.above_model == 400 * MIB


@pytest.mark.parametrize(("seconds", "said"), [(0.44, "0.4 s"), (42, "42 s"), (400, "7 min"), (12_000, "3 h 20 min")])
def test_times_as_one_says_them(seconds: float, said: str) -> None:
    assert shown_seconds(seconds) == said
