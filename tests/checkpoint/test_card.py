"""The model card."""

from collections.abc import Callable

import pytest
import yaml

from petune import methods
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.checkpoint.card import model_card
from petune.checkpoint.peft import LAYOUTS


@pytest.mark.parametrize("method", methods.names())
def test_card_says_what_where_and_how(method: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    adapter = create_adapter(base, method)
    training = {"steps": 12, "train_loss": 0.123456789, "eval": {"loss": 0.5, "accuracy": 1.0}, "data": "a|b\nc"}
    card = model_card(adapter, base, training)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "tiny-llama"
    assert method in yaml.safe_load(front)["tags"]
    assert f"# {adapter.method.title} on tiny-llama" in body
    assert f"{adapter.num_parameters():,} numbers" in body
    for setting in adapter.config.model_dump():
        assert f"| {setting} | `" in body
    assert "| train_loss | 0.123457 |" in body
    assert "| eval | loss 0.5, accuracy 1 |" in body
    assert r"| data | a\|b c |" in body
    assert ("PeftModel" in body) == (method in LAYOUTS)
    assert ("AutoModelForCausalLM" in body) == (method == "full")
    paper = adapter.method.paper
    assert paper is None or f"[{paper.title}]({paper.url})" in body
    assert "## Training" not in model_card(adapter, base, None)
