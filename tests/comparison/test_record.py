"""The records of a comparison: what they hold, and what cannot be said with them."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from petune.comparison.record import Budget, Comparison, CurvePoint, ExampleAnswer, Forgetting, Trial

TRIAL: dict[str, Any] = {
    "id": "demo-lora-1",
    "base": "demo",
    "method": "lora",
    "settings": {"r": 8, "learning_rate": 1e-4},
    "seed": 1,
    "stage": "final",
    "budget": Budget(unit="tokens", amount=1000),
    "status": "done",
    "metric": "accuracy",
    "higher_is_better": True,
    "command": "petune train --method lora",
}


def test_what_is_written_is_read_back() -> None:
    trial = Trial(
        **TRIAL,
        test={"accuracy": 0.5, "perplexity": math.inf},
        scores=[0.0, 1.0],
        curve=[CurvePoint(step=1, tokens=10, seconds=0.5, train_loss=2.0)],
        forgetting=Forgetting(neutral_loss_before=3.0, neutral_loss_after=3.5),
        examples=[ExampleAnswer(prompt="a", answer="b")],
        adapter="trials/demo-lora-1/adapter",
    )
    comparison = Comparison(
        recipe={"seeds": [1]}, command="petune compare recipe.yaml", created="2026-01-01T00:00:00Z",
        machine={"cores": 2}, petune_version="1", data={"rows.jsonl": "0" * 64}, trials=[trial],
    )  # fmt: skip
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison


def test_quality_is_of_the_split_that_the_stage_may_see() -> None:
    values = {**TRIAL, "development": {"accuracy": 0.25}}
    assert Trial(**{**values, "test": {"accuracy": 0.5}}).quality == 0.5
    assert Trial(**{**values, "stage": "search", "rung": 0}).quality == 0.25
    assert Trial(**values).quality is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../outside"}, "pattern"),
        ({"id": ""}, "pattern"),
        ({"adapter": "/tmp/adapter"}, "inside the comparison's folder"),
        ({"adapter": "trials/../../adapter"}, "inside the comparison's folder"),
        ({"status": "failed"}, "do not go together"),
        ({"reason": "no memory"}, "do not go together"),
        ({"stage": "search"}, "only a search has rungs"),
        ({"rung": 0}, "only a search has rungs"),
        ({"stage": "search", "rung": 0, "test": {"accuracy": 1.0}}, "kept from the search"),
        ({"stage": "search", "rung": 0, "scores": [1.0]}, "kept from the search"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Trial(**{**TRIAL, **changes})


def test_a_record_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Trial(**TRIAL).status = "failed"  # type: ignore[misc]
