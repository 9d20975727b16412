"""Recomputed activations: on inside the block, gone after it."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from petune.errors import ConfigError
from petune.training.recomputation import gradient_checkpointing


def block_flags(model: PreTrainedModel) -> list[bool]:
    return [layer.gradient_checkpointing for layer in model.model.layers]


def test_on_inside_and_off_outside_also_after_an_error(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    with gradient_checkpointing(model):
        assert block_flags(model) == [True] * 3
    assert block_flags(model) == [False] * 3
    with pytest.raises(ValueError, match="broken"), gradient_checkpointing(model):
        raise ValueError("broken")
    assert block_flags(model) == [False] * 3
    model.requires_grad_(False)
    assert not model(input_ids=torch.tensor([[5, 6]])).logits.requires_grad


def test_an_architecture_that_cannot_is_refused(
    tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(model, "supports_gradient_checkpointing", False)
    with (
        pytest.raises(ConfigError, match="LlamaForCausalLM cannot recompute activations; leave out --gradient-ch"),
        gradient_checkpointing(model),
    ):
        pass
