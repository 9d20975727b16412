"""DoRA: against its formula, and against HF PEFT step for step."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.kernels.dropout import dropout as drop
from petune.methods.dora import row_factors
from petune.methods.low_rank_slots import LoRAEmbeddingSlot, LoRASlot
from petune.sites.host import Host


def slot_for(module: nn.Module, d_in: int, d_out: int, **options: Any) -> LoRASlot:
    torch.manual_seed(1)
    slot = LoRASlot(torch.randn(3, d_in), torch.randn(d_out, 3), 0.7, has_magnitude=True, **options)
    slot.meet(Host(module))
    with torch.no_grad():
        assert slot.lora_magnitude_vector is not None
        slot.lora_magnitude_vector.uniform_(0.5, 2)
    return slot


def formula(x: Tensor, weight: Tensor, bias: Tensor | None, slot: LoRASlot) -> Tensor:
    """m / |W + s B A| (W + s B A) x + b, in float64."""
    assert slot.lora_magnitude_vector is not None
    changed = weight.double() + slot.scale * slot.lora_B.double() @ slot.lora_A.double()
    rows = changed / changed.norm(dim=1, keepdim=True).detach() * slot.lora_magnitude_vector.double()[:, None]
    return x.double() @ rows.t() + (0 if bias is None else bias.double())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_forward_gradient_and_merging_are_the_formula_s(bias: bool, transposed: bool) -> None:
    torch.manual_seed(0)
    module: nn.Module = Conv1D(4, 6) if transposed else nn.Linear(6, 4, bias=bias)
    slot = slot_for(module, 6, 4)
    weight = module.weight.t() if transposed else module.weight
    x = torch.randn(2, 5, 6)
    found, expected = slot(x, module(x)), formula(x, weight, module.bias, slot)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)

    wanted = torch.autograd.grad(expected.square().sum(), list(slot.parameters()))
    for got, gradient in zip(torch.autograd.grad(found.square().sum(), list(slot.parameters())), wanted, strict=True):
        torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-4)

    merged = slot.merged_parameters(module)
    assert merged is not None
    assert merged["weight"].shape == module.weight.shape
    with torch.no_grad():
        module.weight.copy_(merged["weight"])
    torch.testing.assert_close(module(x), found, rtol=1e-5, atol=1e-5)


def test_an_embedding_is_a_linear_of_one_hot_rows() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(9, 4)
    slot = LoRAEmbeddingSlot(torch.randn(3, 9), torch.randn(4, 3), 0.7, has_magnitude=True)
    slot.meet(Host(table))
    ids = torch.tensor([[1, 8, 1]])
    changed = table.weight.t() + 0.7 * slot.lora_embedding_B @ slot.lora_embedding_A
    assert slot.lora_magnitude_vector is not None
    rows = changed / changed.norm(dim=1, keepdim=True) * slot.lora_magnitude_vector[:, None]
    torch.testing.assert_close(slot(ids, table(ids)), rows.t()[ids], rtol=1e-5, atol=1e-5)


def test_a_row_of_zeros_stays_finite() -> None:
    magnitude = torch.tensor([0.0, 3.0], requires_grad=True)
    factors = row_factors(magnitude, torch.tensor([0.0, 2.0]))
    assert torch.equal(factors, torch.tensor([1.0, 1.5]))
    assert torch.equal(torch.autograd.grad(factors.sum(), magnitude)[0], torch.tensor([0.0, 0.5]))


def test_merged_after_another_adapter_it_is_what_the_stack_was(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., Tensor]
) -> None:
    base, ids = tiny_base(), token_ids(2, 8)
    first = randomise(create_adapter(base, name="first", target_modules="attention"), seed=1)
    second = randomise(create_adapter(base, name="second", target_modules="attention", use_dora=True), seed=2)
    model = AdaptedModel(base, [first, second])
    model.activate("first", "second")
    with torch.no_grad():
        live = model(input_ids=ids).logits
        model.merge("first")
        torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
        model.merge("second")
        torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
        model.unmerge("second")
        model.unmerge("first")
        model.activate("first", "second")
        assert torch.equal(model(input_ids=ids).logits, live)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_trains_step_for_step_like_peft(
    architecture: str, dropout: float, tiny_base: Callable[..., Base], token_ids: Callable[..., Tensor]
) -> None:
    ids, base, twin = token_ids(3, 10), tiny_base(architecture), tiny_base(architecture)
    name = "c_attn" if architecture == "gpt2" else "v_proj"
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "lora_dropout": dropout, "use_dora": True}
    adapter = create_adapter(base, target_modules=name, **settings)
    adapter.set_trainable(True)
    ours = AdaptedModel(base, [adapter])
    config = peft.LoraConfig(target_modules=[name], fan_in_fan_out=architecture == "gpt2", **settings)
    theirs = peft.tuners.lora.LoraModel(twin.model, config, "default")
    wanted = dict(theirs.named_parameters())
    for module in theirs.modules():
        if isinstance(module, nn.Dropout) and module.p == dropout > 0:
            module.forward = lambda x: drop(x, dropout)  # our draws
    with torch.no_grad():
        for path, made in adapter.slots.items():
            assert isinstance(made, LoRASlot)
            wanted[f"model.{path}.lora_A.default.weight"].copy_(made.lora_A)
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == adapter.num_parameters()
    optimizers = [torch.optim.SGD(p, lr=1.0) for p in (adapter.parameters(), trainable)]
    for step in range(3):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model.train()
            torch.manual_seed(step)  # the same inputs are dropped
            logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for path, made in adapter.slots.items():
        assert isinstance(made, LoRASlot)
        magnitude = wanted[f"model.{path}.lora_magnitude_vector.default.weight"]
        torch.testing.assert_close(made.lora_magnitude_vector, magnitude, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(made.lora_B, wanted[f"model.{path}.lora_B.default.weight"], rtol=1e-2, atol=1e-4)
