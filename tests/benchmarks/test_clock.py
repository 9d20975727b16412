"""Time and memory as the workers read them."""

import time

from race.clock import StepClock, peak_memory, resident_memory


def test_steps_are_timed() -> None:
    clock = StepClock()
    clock.begin()
    time.sleep(0.02)
    clock.step()
    report = clock.report()
    assert report["ends"][0] == 0.0
    assert 0.02 <= report["ends"][1] < 2.0


def test_memory_that_is_given_back_stays_in_the_peak() -> None:
    size = 64 * 2**20
    before = resident_memory()
    block = bytearray(b"x") * size
    held = resident_memory()
    del block
    assert held - before > size // 2
    assert peak_memory() - before > size // 2
