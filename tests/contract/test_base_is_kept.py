"""Contract 1 and 4: the base is unchanged at the start, by a forward pass, by an error, and after detaching."""

from collections.abc import Callable

import pytest
import torch

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base


def hooks_of(base: Base) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.model.modules())


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(3, 9)


@torch.no_grad()
def test_fresh_adapter_leaves_the_output_as_it_was(base: Base, method: str, ids: torch.Tensor) -> None:
    before = base.model(input_ids=ids).logits
    model = AdaptedModel(base, [create_adapter(base, method)])
    after = model(input_ids=ids).logits
    match methods.get(method).start:
        case "exact":
            torch.testing.assert_close(after, before, rtol=0, atol=0)
        case "near":
            torch.testing.assert_close(after, before, rtol=0, atol=1e-3)
        case "free":
            assert not torch.allclose(after, before, atol=1e-3)


@torch.no_grad()
def test_detach_restores_the_base_bit_for_bit(
    base: Base, method: str, ids: torch.Tensor, trained: Callable[..., AdaptedModel]
) -> None:
    before = base.model(input_ids=ids).logits
    parameters = dict(base.model.named_parameters())
    values = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    model = trained(base, method)
    assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-2)

    adapter = model.detach("default")

    assert adapter.name == "default"
    assert not model.adapters
    assert hooks_of(base) == 0
    now = dict(base.model.named_parameters())
    assert now.keys() == parameters.keys()
    assert all(now[name] is parameter for name, parameter in parameters.items())
    assert all(torch.equal(tensor, values[name]) for name, tensor in base.model.state_dict().items())
    assert torch.equal(base.model(input_ids=ids).logits, before)


def test_forward_changes_no_state(
    base: Base, method: str, ids: torch.Tensor, trained: Callable[..., AdaptedModel]
) -> None:
    model = trained(base, method)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model(input_ids=ids).logits
    with torch.inference_mode():
        model(input_ids=ids[:1])
    model.train()
    model(input_ids=ids[:, :4]).logits.sum().backward()
    model.eval()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(input_ids=ids).logits, first)


@torch.no_grad()
def test_an_error_inside_a_routed_forward_leaves_nothing_behind(
    base: Base, method: str, ids: torch.Tensor, trained: Callable[..., AdaptedModel]
) -> None:
    model = trained(base, method)
    before, hooks = model(input_ids=ids).logits, hooks_of(base)
    block = base.model.get_submodule(base.structure.blocks[-1])

    def fail(module: torch.nn.Module, inputs: object) -> None:
        raise RuntimeError("broken on purpose")

    handle = block.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken on purpose"), model.route([["default"]] * 3):
        model(input_ids=ids)
    handle.remove()

    assert hooks_of(base) == hooks
    assert torch.equal(model(input_ids=ids).logits, before)
