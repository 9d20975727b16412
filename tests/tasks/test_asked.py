"""Which head of a model answers."""

from collections.abc import Callable

import pytest

from petune.adapted_model import AdaptedModel
from petune.adapter import LearnedTask, create_adapter
from petune.backbone.base import Base
from petune.backbone.further_heads import HeadSpec, add_heads
from petune.errors import ConfigError
from petune.evaluation.runner import WithHead
from petune.tasks.asked import asked_for


@pytest.fixture
def model(tiny_base: Callable[..., Base]) -> AdaptedModel:
    """A language model with a head for words beside its own, and an adapter that knows two tasks."""
    plain = tiny_base("llama")
    heads = add_heads(plain.model, [HeadSpec("ner", "token_classification", ("O", "X"))])
    base = Base(plain.model, plain.tokenizer, name="x", heads=heads)
    adapter = create_adapter(base, "lora")
    adapter.tasks = (
        LearnedTask("text", "causal_lm", (), None, 10, {"layout": "text"}),
        LearnedTask("ner", "token_classification", ("O", "X"), "task_ner", 10, {"layout": "tokens-tags"}),
    )
    return AdaptedModel(base, [adapter])


def test_each_task_has_its_head_its_labels_and_its_rows(model: AdaptedModel) -> None:
    text, ner = asked_for(model, "text"), asked_for(model, "ner")
    assert (text.runner, text.task, text.labels, text.data_format) == (model, "causal_lm", (), {"layout": "text"})
    assert isinstance(ner.runner, WithHead)
    assert ner.runner.model is model.base.heads["ner"].model
    assert (ner.task, ner.labels, ner.data_format) == ("token_classification", ("O", "X"), {"layout": "tokens-tags"})
    assert (ner.runner.tokenizer, ner.runner.device) == (model.tokenizer, model.device)
    assert (ner.runner.insertions, ner.runner.virtual_tokens) == (model.insertions, model.virtual_tokens)
    assert list(ner.runner.modules()) == list(model.modules())


def test_a_task_has_to_be_named_where_there_are_several(model: AdaptedModel) -> None:
    with pytest.raises(ConfigError, match=r"was trained for text, ner; say with task_name \(--task-name\) which one"):
        asked_for(model, None)
    with pytest.raises(ConfigError, match=r"text, ner, not for 'net'; .*Did you mean 'ner'\?"):
        asked_for(model, "net")


def test_a_model_for_one_task_is_asked_as_it_is(tiny_base: Callable[..., Base]) -> None:
    model = AdaptedModel(tiny_base("llama"))
    asked = asked_for(model, None)
    assert (asked.runner, asked.task, asked.labels, asked.data_format) == (model, "causal_lm", (), {})
    with pytest.raises(ConfigError, match="the model is for one task, which has no name; leave task_name='a' out"):
        asked_for(model, "a")
