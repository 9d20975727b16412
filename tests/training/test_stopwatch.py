"""The time that something takes."""

import time

import torch

from petune.training.stopwatch import seconds_of


def test_it_is_the_time_of_what_is_run() -> None:
    assert seconds_of(lambda: time.sleep(0.02), torch.device("cpu")) >= 0.02
    done: list[int] = []
    assert seconds_of(lambda: done.append(1), torch.device("cpu")) >= 0
    assert done == [1]
