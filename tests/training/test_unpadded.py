"""Rows of several adapters end to end: same losses, same gradients, and reasons where it cannot be."""

import logging
from collections.abc import Callable, Sequence
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


SOFT_PROMPTS: list[tuple[str, dict[str, Any]]] = [
    ("prompt_tuning", {}),
    ("p_tuning", {}),
    ("p_tuning", {"encoder_reparameterization_type": "LSTM"}),
]
NAMES = ["first", "first", "second", "second"]
ROWS = [row([11, 12, 13], [14]), row([15], [16, 17]), row([11, 18, 19, 20, 21], [22]), row([], [23, 24, 25])]


ALIKE = [row([11, 12, 13], [14]), row([11, 12], [16, 17]), row([15, 18, 19, 20], [22]), row([15, 18, 24], [25])]
"""Rows of which those of one adapter begin with a token, and those of the other with two, that predict no label."""


def losses_and_gradients(
    model: AdaptedModel, unpadded: bool, rows: Sequence[Encoded] = ROWS
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the losses of ``rows`` and the gradient of each adapter's masters."""
    objective = LabelLoss(model.model, model.plugged_into)
    way = Unpadded(model, objective, shares_tokens=True)
    model.train()
    model.zero_grad()
    with model.fast_training():
        if unpadded:
            assert way.suits(list(zip(NAMES, rows, strict=True)))
            with way.losses(NAMES, rows) as losses:
                losses.sum().backward()
        else:
            batch = collate(rows, pad_token_id=0)
            labels = batch.pop("labels")
            with model.route(NAMES), model.answers_from(answer_starts(rows)):
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


def assert_the_same(model: AdaptedModel, rows: Sequence[Encoded] = ROWS) -> None:
    padded, expected = losses_and_gradients(model, unpadded=False, rows=rows)
    found, gradients = losses_and_gradients(model, unpadded=True, rows=rows)
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


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("method", ["lora", "bottleneck", "prompt_tuning"])
def test_what_rows_of_an_adapter_begin_with_is_computed_once(
    architecture: str, method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    changes = {"gemma2": {"layer_types": ["full_attention"] * 2}}.get(architecture, {})
    model = two_on(tiny_base(architecture, **changes), randomise, method)
    read: list[int] = []
    handle = model.model.base_model.register_forward_hook(
        lambda module, arguments, output: read.append(len(output.last_hidden_state))
    )
    try:
        assert_the_same(model, ALIKE)
    finally:
        handle.remove()
    virtual = sum(adapter.virtual_tokens for adapter in model.adapters.values())
    assert read[-1] == virtual + sum(len(row.input_ids) for row in ALIKE) - 1 - 2


def test_tokens_are_computed_once_only_where_that_is_asked_for_and_saves(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    model = two_on(tiny_base(), randomise, r=2)
    objective = LabelLoss(model.model, model.plugged_into)
    sharing, plain = Unpadded(model, objective, shares_tokens=True), Unpadded(model, objective)
    assert sharing.saves(NAMES, ALIKE)
    assert not sharing.saves(NAMES, ROWS)
    assert not plain.saves(NAMES, ALIKE)
    long = [row([*range(11, 41), *range(k, k + 40)], [14]) for k in (15, 25)]
    assert sharing.saves(["first", "first"], long)
    assert not sharing.saves(["first", "first"], [row([11, *range(k, k + 60)], [14]) for k in (15, 25)])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize(("method", "options"), SOFT_PROMPTS, ids=["prompt tuning", "p-tuning", "LSTM"])
def test_losses_and_gradients_behind_virtual_tokens(
    architecture: str,
    method: str,
    options: dict[str, Any],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    changes = {"gemma2": {"layer_types": ["full_attention"] * 2}}.get(architecture, {})
    assert_the_same(two_on(tiny_base(architecture, **changes), randomise, method, num_virtual_tokens=3, **options))


def test_virtual_tokens_beside_none_and_beside_fewer(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    for others in (("lora", {"r": 2}), ("prompt_tuning", {"num_virtual_tokens": 2})):
        model = AdaptedModel(base)
        for name, (method, options) in {
            "first": others,
            "second": ("prompt_tuning", {"num_virtual_tokens": 5}),
        }.items():
            adapter = randomise(create_adapter(base, method, name=name, **options), seed=len(name))
            adapter.set_trainable(True)
            model.attach(adapter, active=False)
        assert_the_same(model)
        for name in ("first", "second"):
            model.detach(name)


def test_activations_may_be_computed_again(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    model = two_on(tiny_base(), randomise, r=2)
    with gradient_checkpointing(model.model):
        assert_the_same(model)


def test_activations_behind_virtual_tokens_may_be_computed_again(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    model = two_on(tiny_base(), randomise, "prompt_tuning", num_virtual_tokens=3)
    with gradient_checkpointing(model.model):
        assert_the_same(model)


@pytest.mark.parametrize(
    ("architecture", "method", "options", "reason"),
    [
        (
            "llama",
            "prefix_tuning",
            {"num_virtual_tokens": 2},
            "'first' does more than change what single tokens become",
        ),
        ("llama", "lora", {"lora_dropout": 0.5}, "each row draws a dropout of its own"),
        ("bloom", "lora", {}, "the model does not read left to right by attention alone, or cannot be told positions"),
        ("lfm2", "lora", {}, "the model does not read left to right by attention alone, or cannot be told positions"),
    ],
    ids=["virtual tokens", "dropout", "alibi", "convolutions"],
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
    model = two_on(tiny_base(architecture), randomise, method, **options)
    way = Unpadded(model, LabelLoss(model.model, model.plugged_into))
    model.train()
    before = torch.get_rng_state()
    with caplog.at_level(logging.INFO), model.fast_training():
        rows = list(zip(NAMES, ROWS, strict=True))
        assert not way.suits(rows)
        assert not way.suits(rows)
    assert torch.equal(before, torch.get_rng_state())
    ours = [record.message for record in caplog.records if record.name == "petune"]  # transformers tells of its kernels
    assert ours == [f"rows are padded to one length: {reason}"]


def longrope(length: int) -> dict[str, Any]:
    """Return rotary embeddings that are scaled in sequences longer than ``length``."""
    kind = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": length}
    return {"rope_parameters": {**kind, "short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 8.0, 10.0]}}


@pytest.mark.parametrize(
    ("architecture", "limited"),
    [
        ("mistral", lambda length: {"sliding_window": length}),
        ("gemma2", lambda length: {"sliding_window": length}),
        ("llama4_text", lambda length: {"attention_chunk_size": length}),
        ("llama", longrope),
    ],
    ids=["window", "window in some layers", "chunks", "scaled rotary embeddings"],
)
@pytest.mark.parametrize(("method", "virtual"), [("lora", 0), ("prompt_tuning", 3)])
def test_rows_are_padded_where_one_with_its_virtual_tokens_is_longer(
    architecture: str,
    limited: Callable[[int], dict[str, Any]],
    method: str,
    virtual: int,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    base = tiny_base(architecture, **limited(6 + virtual))
    options = {"num_virtual_tokens": virtual} if virtual else {"target_modules": ("q_proj", "v_proj")}
    model = two_on(base, randomise, method, **options)
    assert max(len(row.input_ids) for row in ROWS) == 6
    assert_the_same(model)
    longer = [*ROWS[:3], row([11, 18, 19, 20, 21, 22], [23])]
    for order in ((longer, ROWS, longer), (ROWS, longer, ROWS)):
        way = Unpadded(model, LabelLoss(model.model, model.plugged_into), shares_tokens=True)
        with model.fast_training():
            found = [way.suits(list(zip(NAMES, rows, strict=True))) for rows in order]
        assert found == [rows is ROWS for rows in order]
