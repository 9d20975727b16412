import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("ray")

from petune.comparison.assignment import Assignment
from petune.comparison.message import Message
from petune.comparison.ray_worker import Premises, RayWorker


@pytest.fixture
def premises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Premises:
    """What a node must have, and this one has."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".ray-x").touch()
    (tmp_path / "base").mkdir()
    return Premises(cwd=str(tmp_path), folder="out", token=str(tmp_path / "out" / ".ray-x"), bases=("base",))


def test_a_node_that_has_everything(premises: Premises) -> None:
    assert premises.missing() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cwd": "/gone"},
            "cannot see /gone; the output folder and local bases must lie on a disk that all",
        ),
        ({"token": "/gone/.ray-x"}, "cannot see /gone/.ray-x"),
        ({"bases": ("base", "other")}, "cannot see other"),
        ({"version": "0.0.0"}, "and the comparison was started with 0.0.0; install the same"),
    ],
)
def test_what_a_node_lacks_is_said(
    premises: Premises, changes: dict[str, object], message: str, assigned: Callable[..., Assignment]
) -> None:
    worker = RayWorker(premises.model_copy(update=changes))
    (line,) = worker.run(assigned().model_dump_json())
    failure = Message.model_validate_json(line).failure
    assert failure is not None
    assert failure.kind == "ResourceError"
    assert failure.message.startswith(f"a node of the Ray cluster, {os.uname().nodename}, ")
    assert message in failure.message


def test_trials_come_back_as_lines(premises: Premises, assigned: Callable[..., Assignment]) -> None:
    lines = RayWorker(premises).run(assigned(methods=["bitfit"]).model_dump_json())
    (ended,) = [Message.model_validate_json(line).ended for line in lines]
    assert ended is not None
    assert ended.status == "refused"
