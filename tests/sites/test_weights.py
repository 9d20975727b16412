"""Learned values standing in for base parameters: fp32 masters, and copies in the base's precision."""

import pytest
import torch
from torch import nn

from petune.sites.sites import Sites
from petune.sites.weights import WeightSite, WeightSlot


class Tied(nn.Module):
    """An embedding and a head that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_fp32_computes_with_the_master_itself() -> None:
    linear = nn.Linear(3, 2)
    slot = WeightSlot(linear.weight)
    assert slot.master is not linear.weight
    assert torch.equal(slot.master, linear.weight)
    assert slot.value_for(torch.float32) is slot.master


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_copy_feeds_its_gradients_to_the_master_in_fp32(dtype: torch.dtype) -> None:
    linear = nn.Linear(3, 2, bias=False).to(dtype).requires_grad_(False)
    original = linear.weight
    site = WeightSite.find(linear, "weight")
    slot = WeightSlot(original)
    site.plug("a", slot)
    assert linear.weight.dtype == dtype
    assert linear.weight is not original
    assert [name for name, _ in slot.named_parameters()] == ["master"]

    small = torch.full((1, 3), 1 / 256, dtype=dtype)
    linear(torch.ones(1, 3, dtype=dtype)).sum().backward()
    for _ in range(4):  # each too small to change a sum in bf16
        linear(small).sum().backward()
    assert linear.weight.grad is None
    assert slot.master.grad is not None
    torch.testing.assert_close(slot.master.grad, torch.full((2, 3), 1 + 4 / 256), rtol=0, atol=0)

    with torch.no_grad():
        slot.master.fill_(0.5)
    assert not torch.equal(linear.weight, torch.full_like(original, 0.5))
    slot.refresh()
    assert torch.equal(linear.weight, torch.full_like(original, 0.5))
    site.unplug("a")
    assert linear.weight is original
    slot.set_trainable(False)
    assert not slot.master.requires_grad


def test_trainability_goes_for_the_copy_before_and_after_plugging() -> None:
    linear = nn.Linear(3, 2, bias=False).bfloat16()
    slot = WeightSlot(linear.weight)
    slot.set_trainable(False)
    WeightSite.find(linear, "weight").plug("a", slot)
    assert not linear.weight.requires_grad
    slot.set_trainable(True)
    assert linear.weight.requires_grad
    linear(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
    assert slot.master.grad is not None


def test_tied_places_change_together_and_return_together() -> None:
    model = Tied()
    shared = model.embedding.weight
    site = WeightSite.find(model, "embedding.weight")
    site.plug("a", WeightSlot(shared))
    assert model.head.weight is model.embedding.weight is not shared
    with pytest.raises(AssertionError, match="one learned value at a time"):
        site.plug("b", WeightSlot(shared))
    site.unplug("a")
    assert model.head.weight is model.embedding.weight is shared


def test_sites_appear_and_disappear_with_their_slots() -> None:
    model = Tied()
    sites = Sites(model)
    slot = WeightSlot(model.embedding.weight)
    before = model.embedding.weight
    for _ in range(2):
        sites.plug("a", {"embedding.weight": slot})
        assert model.head.weight is slot.master
        assert not sites.in_use(model.head)
        sites.unplug("a")
        assert model.head.weight is before
