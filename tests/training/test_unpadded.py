"""Rows of several adapters end to end: same losses, same gradients, and reasons where it cannot be."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.data.batching import answer_starts, collate
from petune.data.encoding import IGNORED, Encoded
from petune.sites.head import LabelLoss
from petune.training.recomputation import gradient_checkpointing
from petune.training.unpadded import Unpadded


def row(prompt: list[int], answer: list[int]) -> Encoded:
    return Encoded([*prompt, *answer], [IGNORED] * len(prompt) + answer, "rows:1")


NAMES = ["first", "first", "second", "second"]
ROWS = [row([11, 12, 13], [14]), row([15], [16, 17]), row([11, 18, 19, 20, 21], [22]), row([], [23, 24, 25])]


def losses_and_gradients(model: AdaptedModel, unpadded: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses of ``ROWS`` and the gradient of each adapter's masters."""
    objective = LabelLoss(model.model, model.plugged_into)
    way = Unpadded(model, objective)
    model.train()
    model.zero_grad()
    with model.fast_training():
        if unpadded:
            assert way.suits(list(zip(NAMES, ROWS, strict=True)))
            with way.routed(NAMES, ROWS):
                losses = way.losses(NAMES, ROWS)
                losses.sum().backward()
        else:
            batch = collate(ROWS, pad_token_id=0)
            labels = batch.pop("labels")
            with model.route(NAMES), model.answers_from(answer_starts(ROWS)):
                losses = objective(batch, labels)
                losses.sum().backward()
    masters = ((f"{a.name}.{n}", p) for a in model.adapters.values() for n, p in a.named_masters())
    return losses.detach(), {name: p.grad.clone() for name, p in masters if p.grad is not None}


def two_on(base: Base, randomise: Callable[..., Adapter], method: str = "lora", **options: Any) -> AdaptedModel:
    model = AdaptedModel(base)
    for seed, name in enumerate(("first", "second")):
        adapter = randomise(create_adapter(base, method, name=name, seed=seed, **options), seed=seed)
        adapter.set_trainable(True)
        model.attach(adapter, active=False)
    return model


def assert_the_same(model: AdaptedModel) -> None:
    padded, expected = losses_and_gradients(model, unpadded=False)
    found, gradients = losses_and_gradients(model, unpadded=True)
    torch.testing.assert_close(found, padded, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2", "cohere"])
def test_losses_and_gradients_on_architectures(
    architecture: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    changes = {"gemma2": {"layer_types": ["full_attention"] * 2}}.get(architecture, {})
    assert_the_same(two_on(tiny_base(architecture, **changes), randomise, r=2, target_modules="all-linear"))


@pytest.mark.parametrize(
    ("method", "options"),
    [("bottleneck", {"bottleneck_size": 4}), ("ia3", {}), ("lora", {"r": 2, "use_dora": True})],
    ids=["bottleneck", "ia3", "dora"],
)
def test_losses_and_gradients_with_methods_that_change_tokens(
    method: str, options: dict[str, Any], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    assert_the_same(two_on(tiny_base(), randomise, method, **options))


def test_activations_may_be_computed_again(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    model = two_on(tiny_base(), randomise, r=2)
    with gradient_checkpointing(model.model):
        assert_the_same(model)


@pytest.mark.parametrize(
    ("architecture", "method", "options", "reason"),
    [
        (
            "llama",
            "prompt_tuning",
            {"num_virtual_tokens": 2},
            "'first' does more than change what single tokens become",
        ),
        ("llama", "lora", {"lora_dropout": 0.5}, "each row draws a dropout of its own"),
        ("bloom", "lora", {}, "the model does not read left to right, or cannot be told positions"),
        ("mistral", "lora", {}, "MistralForCausalLM cannot be told where rows begin"),
    ],
    ids=["virtual tokens", "dropout", "alibi", "a window"],
)
def test_rows_are_padded_where_they_cannot_lie_end_to_end(
    architecture: str,
    method: str,
    options: dict[str, Any],
    reason: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = {"mistral": {"sliding_window": 4}}.get(architecture, {})
    model = two_on(tiny_base(architecture, **changes), randomise, method, **options)
    way = Unpadded(model, LabelLoss(model.model, model.plugged_into))
    model.train()
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO), model.fast_training():
        rows = list(zip(NAMES, ROWS, strict=True))
        assert not way.suits(rows)
        assert not way.suits(rows)
    assert torch.equal(before, torch.get_rng_state())
    assert caplog.messages == [f"rows of several adapters are padded to one length: {reason}"]
