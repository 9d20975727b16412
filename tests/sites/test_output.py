"""Slots after a sub-module, each on its own rows."""

from collections.abc import Sequence
from typing import ClassVar, final

import pytest
import torch
from torch import Tensor, nn

from petune.sites.host import Host
from petune.sites.output import OutputSite, OutputSlot
from petune.sites.routing import Route, Routing, Runs


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


@final
class Scale(OutputSlot):
    """The sub-module is given factor * x."""

    changes_input = True

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def enter(self, x: Tensor) -> Tensor:
        return self.factor * x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y


def test_a_slot_wraps_what_those_before_it_made(linear: nn.Linear) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    routing = Routing()
    site = OutputSite(Host(linear), routing)
    site.plug("affine", Affine(2.0))
    site.plug("scale", Scale(3.0))
    with routing.use(Route.of([("affine", "scale"), ("scale", "affine"), (), ("scale",)])):
        mixed = linear(x)
    site.unplug("scale")
    site.unplug("affine")
    assert not linear._forward_pre_hooks
    inner = linear(3 * x)
    expected = (2 * inner + 3 * x.sum(-1, keepdim=True), 2 * inner + x.sum(-1, keepdim=True), linear(x), inner)
    for i, rows in enumerate(expected):
        torch.testing.assert_close(mixed[i], rows[i])


def test_a_slot_may_see_the_input_of_an_earlier_sub_module(linear: nn.Linear) -> None:
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    first = nn.Linear(5, 3)
    routing = Routing()
    site = OutputSite(Host(linear), routing)
    site.plug("a", Affine(1.0), first)
    with routing.use(Route.of([("a",), ()])):
        mixed = linear(first(x))
    plain = linear(first(x))
    torch.testing.assert_close(mixed, plain + torch.stack([x[0].sum(), torch.tensor(0.0)])[:, None])
    site.unplug("a")
    assert not first._forward_pre_hooks


@final
class Counted(OutputSlot):
    """y -> y + number * sum(x); several at once where their numbers are small."""

    calls: ClassVar[list[int]] = []

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.number * x.sum(-1, keepdim=True)

    @classmethod
    def together(cls, slots: Sequence[OutputSlot], runs: Runs, x: Tensor, y: Tensor) -> Tensor | None:
        numbers = torch.tensor([slot.number for slot in slots if isinstance(slot, Counted)])
        if numbers.max() > 9:
            return None
        cls.calls.append(len(slots))
        each = torch.cat([numbers[place].repeat(end - start) for place, start, end in runs])
        each = each.repeat_interleave(len(x) // len(each))
        return y + each.view(-1, *[1] * (x.dim() - 1)) * x.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("rows", "large", "calls"),
    [
        (["a", "b", "a", "b"], 2.0, [2]),
        (["a", None, "b", "a"], 2.0, [2]),
        (["a", None, "b", "a"], 20.0, []),
        (["a", None, "other", "a"], 2.0, []),
        (["a", "other", "b", "a"], 2.0, []),
        (["a", "a", "a", "a"], 2.0, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("repeat", [1, 3])
def test_slots_of_one_kind_may_work_at_once(
    rows: list[str | None], large: float, calls: list[int], repeat: int, linear: nn.Linear
) -> None:
    x = torch.randn(4 * repeat, 2, 3, generator=torch.Generator().manual_seed(1))
    y = linear(x).detach()
    routing = Routing()
    site = OutputSite(Host(linear), routing)
    slots: dict[str, OutputSlot] = {"a": Counted(1.0), "b": Counted(large), "other": Affine(-1.0)}
    for name, slot in slots.items():
        site.plug(name, slot)
    Counted.calls.clear()
    with routing.use(Route.of([() if row is None else (row,) for row in rows])):
        found = linear(x)
    assert Counted.calls == calls
    for i, row in enumerate(rows):
        own = slice(i * repeat, (i + 1) * repeat)
        torch.testing.assert_close(found[own], y[own] if row is None else slots[row](x[own], y[own]))
