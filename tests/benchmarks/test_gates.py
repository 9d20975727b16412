"""The gates of the race, judged on made-up runs."""

from dataclasses import replace
from typing import Any

import pytest
from race.gates import Compared, Gate, judge, largest_distance, mean_distance
from race.settings import Settings

SETTINGS = Settings(compared_steps=3)
PLANNED = [40, 50, 60, 70]


def runs(**losses: list[float]) -> dict[str, dict[str, Any]]:
    """Return the reports of four runs; ``petune_bfloat16=[...]`` sets the losses of one."""
    wide, small = [2.0, 1.5, 1.0], [2.01, 1.6, 1.1]
    found = {}
    for side in ("petune", "peft"):
        for precision, usual in (("float32", wide), ("bfloat16", small)):
            found[f"{side} {precision}"] = {
                "losses": losses.get(f"{side}_{precision}", usual),
                "grad_norms": [3.0, 2.0, 1.0],
                "tokens": PLANNED[:3],
            }
    return found


def failures(compared: Compared) -> list[str]:
    return [gate.name for gate in judge(compared, PLANNED, SETTINGS) if gate.passed is False]


@pytest.fixture
def sound() -> Compared:
    return Compared({"float32": 2.0005, "bfloat16": 2.01}, runs(), {"petune": 0, "peft": 0})


def test_equal_runs_pass(sound: Compared) -> None:
    assert failures(sound) == []


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"petune_float32": [2.003, 1.5, 1.0]}, ["step-0 loss to the reference, float32"]),
        (
            {"petune_float32": [2.0, 1.5, 1.011]},
            ["first 3 losses, largest distance to PEFT, float32"],
        ),
        ({"petune_bfloat16": [2.01, 1.9, 1.1]}, ["first 3 losses, mean drift from float32, bfloat16"]),
    ],
)
def test_wrong_losses_fail(sound: Compared, losses: dict[str, list[float]], expected: list[str]) -> None:
    assert failures(replace(sound, runs=runs(**losses))) == expected


def test_other_rows_fail(sound: Compared) -> None:
    strange = runs()
    strange["petune bfloat16"]["tokens"] = [40, 50, 61]
    assert failures(replace(sound, runs=strange)) == ["steps whose tokens are not the planned ones"]


def test_a_gradient_of_zero_fails(sound: Compared) -> None:
    still = runs()
    still["petune float32"]["grad_norms"] = [3.0, 0.0, 1.0]
    assert failures(replace(sound, runs=still)) == ["least gradient norm"]


def test_a_tensor_that_did_not_move_fails(sound: Compared) -> None:
    assert failures(replace(sound, unchanged={"petune": 1, "peft": 0})) == ["adapter tensors left unchanged"]


def test_a_loss_that_is_no_number_fails() -> None:
    assert Gate("loss", float("nan"), None, 0.01).passed is False


def test_distances() -> None:
    assert largest_distance([1.0, 2.0], [1.5, 1.75]) == 0.5
    assert mean_distance([1.0, 2.0], [1.5, 1.75]) == 0.375
