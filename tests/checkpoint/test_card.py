"""The model card."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from petune import methods
from petune.adapter import LearnedTask, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.card import is_card, model_card
from petune.checkpoint.peft import layout_of


def test_a_card_is_told_from_other_readmes(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    assert not is_card(path)
    base = tiny_base()
    path.write_text(model_card(create_adapter(base, "lora"), base, None), encoding="utf-8")
    assert is_card(path)
    for text in ("", "# notes on\n- petune\n", "---\ntags:\n- peft\n---\nand\n- petune\n"):
        path.write_text(text)
        assert not is_card(path)


@pytest.mark.parametrize("method", methods.names())
def test_card_says_what_where_and_how(method: str, tiny_base_for: Callable[..., Base]) -> None:
    base = tiny_base_for(method)
    adapter = create_adapter(base, method)
    training = {"steps": 12, "train_loss": 0.123456789, "eval": {"loss": 0.5, "accuracy": 1.0}, "data": "a|b\nc"}
    card = model_card(adapter, base, training)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == base.name
    assert method in yaml.safe_load(front)["tags"]
    assert f"# {adapter.method.title} on {base.name}" in body
    assert f"{adapter.num_parameters():,} numbers" in body
    for setting in adapter.config.model_dump():
        assert f"| {setting} | `" in body
    assert "| train_loss | 0.123457 |" in body
    assert "| eval | loss 0.5, accuracy 1 |" in body
    assert r"| data | a\|b c |" in body
    assert ("PeftModel" in body) == (layout_of(adapter, base.structure) is not None)
    assert ("AutoModelForCausalLM" in body) == (method == "full")
    paper = adapter.method.paper
    assert paper is None or f"[{paper.title}]({paper.url})" in body
    assert "## Training" not in model_card(adapter, base, None)


def test_the_card_of_an_adapter_for_several_tasks_names_them(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    adapter = create_adapter(base, "lora")
    adapter.tasks = (
        LearnedTask("ner", "token_classification", ("O", "X"), "task_ner", 10, {}),
        LearnedTask("text", "causal_lm", (), None, 10, {}),
    )
    card = model_card(adapter, base, None)
    assert "| ner | token_classification | O, X |\n| text | causal_lm |  |\n" in card
    assert "petune predict --adapter . --data rows.jsonl --task-name ner\n" in card
    assert 'model = petune.load(".", task_name="ner")' in card
    assert "PeftModel" not in card  # PEFT has one head
