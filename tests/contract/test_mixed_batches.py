"""Contract 6: a mixed batch of adapters equals separate runs, and so do its gradients."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.training.recomputation import gradient_checkpointing

Row = str | list[str] | None
ROUTES: tuple[Row, ...] = ("first", None, "second", ["first", "second"], "first", ["second", "first"])


@pytest.fixture
def pair(base: Base, sharing_method: str, randomise: Callable[..., Adapter]) -> AdaptedModel:
    """Two adapters that differ in every setting that shapes their tensors."""
    different: dict[str, dict[str, object]] = {
        "bitfit": {"bias_modules": ("*.0.*",)},
        "bottleneck": {"bottleneck_size": 5, "placement": "parallel", "non_linearity": "tanh", "scaling": 2.0},
        "ia3": {"target_modules": "all-linear"},
        "llama_adapter": {"adapter_len": 3, "adapter_layers": 1, "gate_activation": "none", "shared_gate": True},
        "lora": {"r": 3, "target_modules": "attention", "lora_alpha": 9.0},
        "p_tuning": {"num_virtual_tokens": 3, "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 5},
        "p_tuning_v2": {"num_virtual_tokens": 3, "prefix_init": "random"},
        "prefix_tuning": {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 6},
        "prompt_tuning": {"num_virtual_tokens": 3},
    }
    first = create_adapter(base, sharing_method, name="first")
    second = create_adapter(base, sharing_method, name="second", **different[sharing_method])
    for i, adapter in enumerate((first, second)):
        randomise(adapter, seed=i + 1).set_trainable(True)
    return AdaptedModel(base, [first, second])


def loss(model: AdaptedModel, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


def gradients(model: AdaptedModel) -> dict[str, torch.Tensor]:
    found = {}
    for name, adapter in model.adapters.items():
        for path, parameter in adapter.named_parameters():
            assert parameter.grad is not None
            found[f"{name}:{path}"] = parameter.grad
            parameter.grad = None
    return found


def test_outputs_and_gradients_equal_those_of_separate_runs(
    pair: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(len(ROUTES), 8)
    with pair.route(ROUTES):
        mixed = pair(input_ids=ids).logits.detach()
        loss(pair, ids).backward()
    together = gradients(pair)

    for i, row in enumerate(ROUTES):
        pair.activate(*([row] if isinstance(row, str) else row or []))
        with torch.no_grad():
            torch.testing.assert_close(pair(input_ids=ids[i : i + 1]).logits[0], mixed[i], rtol=1e-4, atol=1e-4)
        if row is not None:
            loss(pair, ids[i : i + 1]).backward()
    for name, gradient in gradients(pair).items():
        error = (together[name] - gradient).norm() / gradient.norm()
        assert error < 1e-4, name


@torch.no_grad()
def test_order_of_a_stack_is_the_order_given(pair: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids = token_ids(2, 6)
    pair.activate("first", "second")
    assert pair.active == ("first", "second")
    both = pair(input_ids=ids).logits
    pair.activate("first")
    assert not torch.allclose(pair(input_ids=ids).logits, both, atol=1e-3)
    with pair.route([["first", "second"], ["first", "second"]]):
        assert torch.equal(pair(input_ids=ids).logits, both)


def test_gradient_checkpointing_in_a_mixed_batch(pair: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids = token_ids(len(ROUTES), 8)
    pair.train()
    results = []
    for checkpointing in (False, True):
        torch.manual_seed(3)  # for dropout
        recompute = gradient_checkpointing(pair.model) if checkpointing else nullcontext()
        with pair.route(ROUTES), recompute:
            loss(pair, ids).backward()
        results.append(gradients(pair))
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=1e-5, atol=1e-6)
