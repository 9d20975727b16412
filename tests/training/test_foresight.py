"""An estimate before the run: what it is made of, and that making it changes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base
from petune.errors import Interrupted
from petune.training.estimate import Estimate
from petune.training.events import Plan, Silent
from petune.training.foresight import cost
from petune.training.rehearsal import Rehearsal
from petune.training.run import train


class Heard(Silent):
    """Keeps what is told before the first step."""

    def __init__(self) -> None:
        self.told: list[Estimate | Plan] = []

    def estimated(self, estimate: Estimate) -> None:
        """Keep it."""
        self.told.append(estimate)


def test_it_changes_nothing_for_any_method(
    method: str, tmp_path: Path, tiny_base_for: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    options = keys(method=method, num_train_epochs=1, eval_data=str(tmp_path / "eval.jsonl"))
    plain = train(options, base=tiny_base_for(method))
    heard = Heard()
    told = train(
        {**options, "output_dir": str(tmp_path / "told")},
        base=tiny_base_for(method),
        estimate=True,
        listeners=[heard],
    )
    assert [e["loss"] for e in told.history if "loss" in e] == [e["loss"] for e in plain.history if "loss" in e]
    assert told.eval_metrics == plain.eval_metrics
    assert plain.estimate is None
    assert heard.told == [told.estimate]
    assert told.estimate is not None
    assert told.estimate.steps == told.steps == 4
    assert told.estimate.seconds > 0
    assert 0 < told.estimate.kept < told.estimate.above_model
    written = json.loads((tmp_path / "told" / "train_results.json").read_text())
    assert written["estimate"] == told.estimate.to_dict()


def test_it_is_left_out_where_it_would_cost_too_much(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    heard = Heard()
    for name, share in (("short", 0.05), ("long", 100.0)):
        options = keys(max_steps=2, output_dir=str(tmp_path / name))
        result = train(options, base=tiny_base(), estimate=share, listeners=[heard])
        assert (result.estimate is None) is (name == "short")
    assert len(heard.told) == 1


def test_what_it_costs_falls_with_the_length_of_the_run(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []

    def noted(rehearsal: Rehearsal, *, grows_faster: bool) -> float:
        found.append(cost(rehearsal, grows_faster=grows_faster))
        raise Interrupted("enough", 2)

    monkeypatch.setattr("petune.training.loop.cost", noted)
    for steps in (5, 500):
        options = keys(max_steps=steps, output_dir=str(tmp_path / str(steps)), group_by_length=False)
        with pytest.raises(Interrupted, match="enough"):
            train(options, base=tiny_base(), estimate=0.05)
    short, long = found
    assert short > 0.05 > long
    assert short == pytest.approx(100 * long, rel=0.5)


def test_dropout_falls_as_without_it(tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    losses = []
    for estimate in (False, True):
        options = keys(lora_dropout=0.3, max_steps=3, output_dir=str(tmp_path / str(estimate)))
        losses.append([e["loss"] for e in train(options, base=tiny_base(), estimate=estimate).history])
    assert losses[0] == losses[1]


def test_time_grows_with_the_steps_and_memory_does_not(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petune.training.rehearsal.Rehearsal.timed", lambda self, batch: (1.0, 0))
    found = []
    for steps in (4, 8):
        options = keys(max_steps=steps, output_dir=str(tmp_path / str(steps)), save_steps=100, group_by_length=False)
        estimate = train(options, base=tiny_base(), estimate=True).estimate
        assert estimate is not None
        found.append(estimate)
    # Each batch takes a second, and a step has two of them.
    assert found[0].seconds == pytest.approx(8, rel=0.2)
    assert found[1].seconds == pytest.approx(16, rel=0.2)
    assert found[0].kept == pytest.approx(found[1].kept, rel=0.2)


def test_a_run_that_is_resumed_is_estimated_from_there(
    tiny_base: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petune.training.rehearsal.Rehearsal.timed", lambda self, batch: (1.0, 0))
    train(keys(max_steps=8, save_steps=6), base=tiny_base())
    folder = Path(keys()["output_dir"])
    for path in (folder / "checkpoint-8").iterdir():
        path.unlink()
    (folder / "checkpoint-8").rmdir()
    result = train(keys(max_steps=8, save_steps=6), base=tiny_base(), resume=True, estimate=True)
    assert result.estimate is not None
    assert result.estimate.seconds == pytest.approx(4, rel=0.3)
    assert torch.isfinite(torch.tensor(result.train_loss))
