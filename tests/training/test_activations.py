"""What a forward pass holds, counted against sums done by hand."""

import pytest
import torch
from torch import nn

from petune.training.activations import counted

NUMBERS = 1000
BYTES = 4 * NUMBERS


def test_what_the_backward_pass_needs_counts_once() -> None:
    weight = nn.Parameter(torch.ones(NUMBERS))
    with counted([weight]) as found:
        hidden = (weight * 2).exp()  # exp keeps what it gives
        loss = (hidden * hidden).sum()  # and the product keeps the same tensor, twice
    assert found.kept == BYTES
    loss.backward()
    assert weight.grad is not None


def test_what_is_there_anyway_does_not_count_and_views_are_their_storage() -> None:
    weight, given = nn.Parameter(torch.ones(NUMBERS)), torch.ones(NUMBERS)
    with counted([weight]) as found:
        _ = (weight * given).view(10, 100)[0].cos()
    assert found.kept == 2 * BYTES  # what was given, and the product of which one row is looked at
    with counted([weight, given]) as found:
        _ = (weight * given).view(10, 100)[0].cos()
    assert found.kept == BYTES


def test_the_most_is_what_is_kept_and_what_passes() -> None:
    weight = nn.Parameter(torch.ones(NUMBERS))
    with counted([weight]) as found:
        hidden = weight.exp()
        with torch.no_grad():
            passing = torch.ones(5 * NUMBERS)
            del passing
            torch.ones(3 * NUMBERS)
    assert (found.kept, found.most) == (BYTES, 6 * BYTES)
    assert hidden.requires_grad


def test_a_rehearsed_pass_counts_the_same_and_keeps_nothing() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(100, 100), nn.GELU()) for _ in range(4)))
    x, found = torch.ones(50, 100), []
    for rehearsed in (False, True):
        with counted([*layers.parameters(), x], rehearsed=rehearsed) as count:
            output = layers(x)
        found.append((count.kept, count.most))
    assert found[0] == found[1]
    assert found[0][0] == 4 * (2 * 50 * 100 * 4) - 50 * 100 * 4  # each layer's input and sum; the first input is known
    with pytest.raises(AssertionError, match="a rehearsed pass has no backward pass"):
        output.sum().backward()


def test_it_is_known_what_is_kept() -> None:
    weight = nn.Parameter(torch.ones(NUMBERS))
    with counted([weight]) as found:
        hidden = weight.exp()
        other = hidden.detach() + 1
        assert (found.keeps(hidden), found.keeps(other), found.keeps(weight)) == (True, False, True)
