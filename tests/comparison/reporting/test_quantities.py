"""Figures as people read them."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from petune.comparison.record import Budget
from petune.comparison.reporting.quantities import (
    amount,
    change,
    count,
    duration,
    moment,
    number,
    share,
    signed,
    size,
    tick,
)


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (number, 0.91249, "0.912"),
        (number, -0.0001, "0.000"),
        (number, -1.5, "−1.500"),
        (number, 23.456, "23.46"),
        (number, 123456.0, "123,456"),
        (number, math.inf, "∞"),
        (number, math.nan, "not a number"),
        (signed, 0.02, "+0.020"),
        (signed, -0.02, "−0.020"),
        (signed, 0.0001, "0.000"),
        (count, 960, "960"),
        (count, 30_720, "30.7 k"),
        (count, 134_515_008, "135 M"),
        (count, 999_950, "1.00 M"),
        (tick, 0.25, "0.25"),
        (tick, -0.1, "−0.1"),
        (tick, 500_000, "500 k"),
        (size, 0, "0 B"),
        (size, 1536, "1.50 KiB"),
        (size, 512 * 2**20, "512 MiB"),
        (share, 0.0, "0 %"),
        (share, 1.0, "100 %"),
        (share, 0.1234, "12.3 %"),
        (share, 0.14, "14 %"),
        (share, 0.0073, "0.73 %"),
        (share, 0.0000856, "0.0086 %"),
        (share, 14.0, "1,400 %"),
        (change, 0.113, "+11.3 %"),
        (change, -0.0025, "−0.2 %"),
        (change, 0.0001, "0.0 %"),
        (duration, 4.21, "4.2 s"),
        (duration, 185, "3 min 05 s"),
        (duration, 4320, "1 h 12 min"),
        (moment, "2026-03-01T09:30:12+00:00", "2026-03-01 09:30 UTC"),
        (moment, "yesterday", "yesterday"),
        (amount, Budget(unit="tokens", amount=512000), "512,000 tokens"),
        (amount, Budget(unit="tokens", amount=5000 / 9), "556 tokens"),
        (amount, Budget(unit="steps", amount=6 / 9), "1 step"),
        (amount, Budget(unit="steps", amount=20 / 9), "2 steps"),
        (amount, Budget(unit="epochs", amount=1.5), "1.5 epochs"),
        (amount, Budget(unit="epochs", amount=1.0), "1 epoch"),
        (amount, Budget(unit="epochs", amount=3 / 9), "0.333 epochs"),
        (amount, Budget(unit="seconds", amount=1000 / 3), "333 seconds"),
    ],
)
def test_what_is_written(write: Callable[[Any], str], value: Any, text: str) -> None:
    assert write(value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_number_and_unit_stay_on_one_line() -> None:
    assert " " not in count(30_720) + size(1536) + share(0.5) + duration(4320)
