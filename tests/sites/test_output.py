"""Slots after a sub-module, each on its own rows."""

from typing import final

import pytest
import torch
from torch import Tensor, nn

from petune.sites.output import Host, OutputSite, OutputSlot
from petune.sites.routing import Route, Routing


@final
class Affine(OutputSlot):
    """y -> factor * y + sum(x)."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.factor * y + x.sum(-1, keepdim=True)


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (8, 3), (8, 2, 3)], ids=str)
def test_each_row_goes_through_its_own_slots(linear: nn.Linear, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    y = linear(x).detach()
    routing = Routing()
    site = OutputSite(Host(linear), routing)
    site.plug("a", Affine(2.0))
    site.plug("b", Affine(-1.0))
    total = x.sum(-1, keepdim=True)
    a, b, ba = 2 * y + total, -y + total, 2 * (-y + total) + total

    with routing.use(Route.of([("b",), (), ("b", "a", "elsewhere"), ("a",)])):
        mixed = linear(x)
    per_row = shape[0] // 4
    for i, expected in enumerate((b, y, ba, a)):
        rows = slice(i * per_row, (i + 1) * per_row)
        assert torch.equal(mixed[rows], expected[rows])
    assert torch.equal(linear(x), y)
    routing.set_default(("b", "a"))
    assert torch.equal(linear(x), ba)


def test_the_last_slot_takes_the_hook_along(linear: nn.Linear) -> None:
    site = OutputSite(Host(linear), Routing())
    assert not linear._forward_hooks
    site.plug("a", Affine(2.0))
    site.plug("b", Affine(3.0))
    assert len(linear._forward_hooks) == 1
    with pytest.raises(AssertionError, match="'a' is plugged in here already"):
        site.plug("a", Affine(2.0))
    site.unplug("a")
    assert len(linear._forward_hooks) == 1
    site.unplug("b")
    assert not linear._forward_hooks
    assert Affine(1.0).merged_weight(torch.ones(2, 2)) is None
