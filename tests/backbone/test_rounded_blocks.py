import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from petune.backbone.rounded_blocks import NF4, NF4_LEVELS, ROUNDINGS, to_q8_0


def weight() -> torch.Tensor:
    numbers = torch.randn(12, 128, generator=torch.Generator().manual_seed(0))
    numbers[3] = 0
    return numbers


def test_eight_bits_are_those_of_the_reference() -> None:
    expected = quantize(weight().numpy(), GGMLQuantizationType.Q8_0)
    blocks = ROUNDINGS["8bit"].blocks(weight())
    assert np.array_equal(blocks.numpy(), expected)
    assert to_q8_0(torch.full((1, 32), -2.0))[0, 2:].view(torch.int8).tolist() == [-127] * 32


def test_levels_are_quantiles_of_the_normal_distribution() -> None:
    """Appendix E of the paper, as its authors compute it: eight steps up from the median and seven down."""
    reach = torch.tensor(0.9677083, dtype=torch.float64)

    def quantiles(count: int) -> torch.Tensor:
        return torch.special.ndtri(torch.linspace(float(reach), 0.5, count, dtype=torch.float64))[:-1]

    levels = torch.cat([-quantiles(8), torch.zeros(1), quantiles(9)]).sort().values
    torch.testing.assert_close(torch.tensor(NF4_LEVELS, dtype=torch.float64), levels / levels.max(), rtol=0, atol=1e-6)


def test_four_bits_are_the_nearest_levels() -> None:
    blocks = ROUNDINGS["4bit"].blocks(weight())
    assert blocks.shape == (12, 2 * NF4.size)
    numbers = NF4.decode(blocks.view(-1, NF4.size))
    exact = weight().view(-1, 64)
    scales = exact.abs().amax(1)
    wanted = torch.tensor(NF4_LEVELS) * scales[:, None, None]
    nearest = (exact[..., None] - wanted).abs().argmin(-1)
    assert torch.equal(numbers, wanted.expand(*exact.shape, 16).gather(2, nearest[..., None])[..., 0])
    assert torch.equal(numbers.abs().amax(1), scales)


@pytest.mark.parametrize(("name", "bound"), [("8bit", 0.006), ("4bit", 0.1)])
def test_error_of_rounding(name: str, bound: float) -> None:
    rounding = ROUNDINGS[name]
    numbers = rounding.form.decode(rounding.blocks(weight()).view(-1, rounding.form.size)).view(12, 128)
    assert 0 < (numbers - weight()).norm() / weight().norm() < bound
