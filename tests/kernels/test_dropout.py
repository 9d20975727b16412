"""Dropout drops the share that it says, scales up what it keeps, and sends back what it let through."""

import pytest
import torch
from torch.nn import functional as F

from petune.kernels.dropout import draw_kept, dropout

SHARES = [0.05, 0.1, 0.5, 0.9, 1 / 256]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_numbers_are_dropped_or_scaled_up(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(301, 333).to(dtype).requires_grad_()
    pull = torch.randn(x.shape).to(dtype)
    torch.manual_seed(1)
    y = dropout(x, share)
    (d_x,) = torch.autograd.grad(y, x, pull)
    torch.manual_seed(1)
    kept, scale = draw_kept(x.shape, share)
    expected, zero = torch.tensor(scale, dtype=torch.float64), torch.zeros((), dtype=dtype)
    torch.testing.assert_close(y, torch.where(kept, (x * expected).to(dtype), zero))
    torch.testing.assert_close(d_x, torch.where(kept, (pull * expected).to(dtype), zero))
    deviation = (share * (1 - share) / kept.numel()) ** 0.5
    assert kept.double().mean().item() == pytest.approx(1 - share, abs=4 * deviation)
    assert scale == pytest.approx(1 / (1 - share), rel=2e-3)


def test_no_place_is_favoured() -> None:
    torch.manual_seed(0)
    kept = torch.stack([draw_kept(torch.Size((8, 5)), 0.25)[0] for _ in range(4000)]).double()
    assert kept.mean(0).sub(0.75).abs().max() < 5 * (0.25 * 0.75 / 4000) ** 0.5
    together = torch.corrcoef(kept.view(4000, -1).T) - torch.eye(40)
    assert together.abs().max() < 5 / 4000**0.5


def test_a_state_of_the_generator_goes_on_with_the_same() -> None:
    torch.manual_seed(3)
    x = torch.ones(7, 9)
    first, state = dropout(x, 0.5), torch.get_rng_state()
    second = dropout(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("share", [0.0, 0.001, 1.0])
def test_a_share_that_would_be_rounded_is_left_to_pytorch(share: float) -> None:
    x = torch.randn(40, 50)
    torch.manual_seed(0)
    expected = F.dropout(x, share)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, share), expected)


def test_layouts_and_sizes() -> None:
    transposed = torch.ones(6, 4).T
    assert set(dropout(transposed, 0.5).flatten().tolist()) <= {0.0, 2.0}
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)
    assert dropout(torch.tensor(1.0), 0.5).item() in {0.0, 2.0}
