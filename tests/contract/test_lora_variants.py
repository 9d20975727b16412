"""The contract once more for each variant of one method: what its defaults do not reach."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.training.recomputation import gradient_checkpointing

TABLE = {"llama": "embed_tokens", "gpt2": "wte", "gpt_neox": "embed_in"}
VARIANTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "dora": lambda _: {"use_dora": True},
    "pissa": lambda _: {"init_lora_weights": "pissa"},
    "pissa-dora": lambda _: {"init_lora_weights": "pissa_niter_2", "use_dora": True, "r": 4},
    "embeddings": lambda table: {"target_modules": (table, "lm_head")},
    "embeddings-dora": lambda table: {"target_modules": (table, "lm_head"), "use_dora": True},
    "ranks": lambda _: {"target_modules": "attention", "rank_pattern": {r".*\.0\..*": 3}, "alpha_pattern": {".*": 4}},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, architecture: str) -> dict[str, Any]:
    """Settings of one variant for the architecture."""
    return VARIANTS[request.param](TABLE[architecture])


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(3, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_start_is_exact(
    architecture: str, dtype: torch.dtype, variant: dict[str, Any], ids: torch.Tensor, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture, dtype=dtype)
    before = base.model(input_ids=ids).logits
    model = AdaptedModel(base, [create_adapter(base, **variant)])
    assert torch.equal(model(input_ids=ids).logits, before)
    assert torch.equal(model.train()(input_ids=ids).logits, before)


@torch.no_grad()
def test_merged_and_unmerged(
    architecture: str,
    variant: dict[str, Any],
    ids: torch.Tensor,
    tiny_base: Callable[..., Base],
    trained: Callable[..., AdaptedModel],
) -> None:
    base = tiny_base(architecture, tie_word_embeddings=False)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    model = trained(base, "lora", **variant)
    live = model(input_ids=ids).logits
    model.merge("default")
    torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    model.unmerge("default")
    assert torch.equal(model(input_ids=ids).logits, live)
    model.merge("default")
    model.detach("default")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


@torch.no_grad()
def test_saved_and_loaded(
    base: Base,
    architecture: str,
    variant: dict[str, Any],
    ids: torch.Tensor,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    trained: Callable[..., AdaptedModel],
) -> None:
    model = trained(base, "lora", **variant)
    live = model(input_ids=ids).logits
    folder = save_adapter(model, tmp_path)
    again = tiny_base(architecture)
    loaded = AdaptedModel(again, [load_adapter(folder, again)])
    torch.testing.assert_close(loaded(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


def gradients(model: AdaptedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum").backward()
    found = {}
    for name, parameter in model.adapter("default").named_masters():
        assert parameter.grad is not None
        found[name], parameter.grad = parameter.grad, None
    return found


def test_rows_keep_to_their_own(
    base: Base,
    variant: dict[str, Any],
    ids: torch.Tensor,
    trained: Callable[..., AdaptedModel],
    randomise: Callable[..., Adapter],
) -> None:
    model = trained(base, "lora", **variant)
    model.adapter("default").set_trainable(True)
    model.attach(randomise(create_adapter(base, "lora", name="other", **variant), seed=5), active=False)
    rows = ("other", "default", None)
    with model.route(rows):
        mixed = model(input_ids=ids).logits
        together = gradients(model, ids)
    for i, row in enumerate(rows):
        model.activate(*([row] if row else []))
        torch.testing.assert_close(model(input_ids=ids[i : i + 1]).logits[0], mixed[i], rtol=1e-4, atol=1e-4)
    model.activate("default")
    for name, gradient in gradients(model, ids[1:2]).items():
        assert (together[name] - gradient).norm() < 1e-4 * gradient.norm()


def test_gradient_checkpointing(
    base: Base, variant: dict[str, Any], ids: torch.Tensor, trained: Callable[..., AdaptedModel]
) -> None:
    model = trained(base, "lora", **variant)
    model.adapter("default").set_trainable(True)
    model.train()
    found = []
    for context in (nullcontext(), gradient_checkpointing(model.model)):
        with context:
            found.append(gradients(model, ids))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6)


def test_a_bf16_base_trains_close_to_an_fp32_one(
    architecture: str,
    variant: dict[str, Any],
    ids: torch.Tensor,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    found = []
    values: dict[str, torch.Tensor] = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = tiny_base(architecture, dtype=dtype)
        adapter = randomise(create_adapter(base, **variant), scale=0.02)
        values = values or {name: tensor.clone() for name, tensor in adapter.tensors().items()}
        adapter.load_tensors(values)  # directions of singular vectors depend on the last bits
        adapter.set_trainable(True)
        found.append(gradients(AdaptedModel(base, [adapter]), ids))
    for name, gradient in found[0].items():
        assert found[1][name].dtype == torch.float32
        assert (found[1][name] - gradient).norm() < 0.3 * gradient.norm() + 1e-3, name
