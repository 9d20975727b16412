"""The written records of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.cli.reporting import print_result
from petune.errors import Interrupted
from petune.training.events import Evaluated, Plan, Silent, Step
from petune.training.run import train


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_means_since_the_last_line(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    each = train(keys(max_steps=7, output_dir=str(tmp_path / "each")), base=tiny_base())
    some = train(keys(max_steps=7, logging_steps=3), base=tiny_base())
    losses = [entry["loss"] for entry in each.history]
    assert [e["step"] for e in some.history] == [3, 6, 7]
    expected = [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, losses[6]]
    assert [e["loss"] for e in some.history] == pytest.approx(expected, rel=1e-6)
    assert entries(tmp_path / "run") == some.history
    first = each.history[0]
    assert first.keys() == {
        "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "peak_memory_bytes"
    }  # fmt: skip
    assert [e["epoch"] for e in each.history][:4] == [0.25, 0.5, 0.75, 1.0]
    assert [e["learning_rate"] for e in each.history] == pytest.approx([1e-2 * (7 - i) / 7 for i in range(7)])


def test_a_run_that_stops_between_two_lines_leaves_one_more(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], signal_at: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = keys(max_steps=6, eval_data=str(tmp_path / "eval.jsonl"), eval_steps=1)
    early = {"early_stopping_patience": 1, "learning_rate": 1e-30, "logging_steps": 5}
    result = train({**options, **early}, base=tiny_base())
    assert result.steps == 2
    assert result.train_loss is not None
    assert [e["step"] for e in entries(tmp_path / "run") if "loss" in e] == [2]
    print_result(result)
    assert f"training loss {result.train_loss:.4f}\n" in capsys.readouterr().out

    whole = {**keys(logging_steps=5), "output_dir": str(tmp_path / "whole")}
    stopped = {**whole, "output_dir": str(tmp_path / "stopped")}
    expected = train(whole, base=tiny_base()).history
    with pytest.raises(Interrupted):
        train(stopped, base=tiny_base(), listeners=[signal_at(3)])
    assert [e["step"] for e in entries(tmp_path / "stopped")] == [3]
    found = train(stopped, base=tiny_base(), resume=True).history
    assert [(e["step"], e["loss"]) for e in found] == [(e["step"], e["loss"]) for e in expected]


def test_an_interrupted_run_leaves_its_records(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], signal_at: Callable[..., Any]
) -> None:
    with pytest.raises(Interrupted):
        train(keys(), base=tiny_base(), listeners=[signal_at(3)])
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    assert state["max_steps"] == 8
    assert state["log_history"] == entries(tmp_path / "run")
    assert [e["step"] for e in state["log_history"]] == [1, 2, 3]
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_listeners_hear_everything_in_order(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    heard: list[str] = []

    class Recorder(Silent):
        def started(self, plan: Plan) -> None:
            heard.append(f"started {plan.first_step}/{plan.total_steps}")
            assert plan.parameters.startswith("trainable params: ")

        def stepped(self, step: Step) -> None:
            heard.append(f"step {step.step}")
            assert step.tokens > 0
            assert step.grad_norm > 0

        def evaluated(self, evaluation: Evaluated) -> None:
            heard.append(f"evaluated {evaluation.step}")

        def saved(self, folder: Path, step: int) -> None:
            heard.append(f"saved {folder.name} {step}")

        def ended(self) -> None:
            heard.append("ended")

    options = keys(max_steps=3, eval_steps=2, eval_data=str(tmp_path / "eval.jsonl"))
    train(options, base=tiny_base(), listeners=[Recorder()])
    assert heard == [
        "started 0/3", "step 1", "step 2", "evaluated 2", "saved checkpoint-2 2",
        "step 3", "evaluated 3", "saved checkpoint-3 3", "ended",
    ]  # fmt: skip


def test_tensorboard_gets_the_same_numbers(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    pytest.importorskip("tensorboard")
    train(keys(max_steps=2, report_to=["tensorboard"], run_name="mine"), base=tiny_base())
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
