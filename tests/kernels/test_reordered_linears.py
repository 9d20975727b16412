import pytest
import torch
from torch import nn

from petune.kernels.reordered_linears import reordered, reordered_linears, reordered_sum

TYPES = [torch.float32, torch.bfloat16]


class Wider(nn.Linear):
    """A linear with a forward pass of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def model_of(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 40, bias=False), Wider(40, 8)).to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(48,), (1, 1, 48), (5, 1, 48), (3, 7, 48)])
def test_products_are_those_of_the_module(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    model, x = model_of(dtype), torch.randn(shape).to(dtype)
    with torch.inference_mode():
        expected = model(x)
        with reordered_linears(model) as number:
            assert number == 2, "a sub-class has a forward pass of its own"
            got = model(x)
    torch.testing.assert_close(got, expected, rtol=1e-5 if dtype == torch.float32 else 0, atol=1e-6)
    assert got.shape == (*shape[:-1], 8)


def test_modules_are_as_before_after_an_error() -> None:
    model = model_of(torch.float32)

    def fail_inside() -> None:
        with reordered_linears(model):
            assert "forward" in vars(model[0])
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert all("forward" not in vars(module) for module in model)


def test_hooks_act_and_a_forward_of_somebody_else_stays() -> None:
    model = model_of(torch.float32)
    model[0].register_forward_hook(lambda module, inputs, output: output * 0)
    model[2].forward = lambda x: x[..., :40] + 2
    with torch.inference_mode(), reordered_linears(model) as number:
        assert number == 1
        assert torch.equal(model[:3](torch.randn(2, 48)), torch.full((2, 40), 2.0))
    assert "forward" in vars(model[2])


def test_copies_take_no_more_memory_than_they_may() -> None:
    model = model_of(torch.float32)
    with reordered_linears(model, most_bytes=4 * 48 * 96) as number:
        assert number == 1
        assert "forward" not in vars(model[2])
    with reordered_linears(model, most_bytes=0) as number:
        assert number == 0


def test_other_precisions_stay_as_they_are() -> None:
    with reordered_linears(model_of(torch.float64)) as number:
        assert number == 0


def test_a_release_without_the_operations_runs_linears_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.kernels.reordered_linears._OPERATIONS", ("_linear_pointwise", "_no_such_operation"))
    with reordered_linears(model_of(torch.float32)) as number:
        assert number == 0


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(24,), (5, 1, 24), (3, 7, 24)])
def test_a_product_is_added_and_rounded_once(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape).to(dtype), torch.randn(6, 24).to(dtype)
    y = torch.randn(*shape[:-1], 6).to(dtype)
    copy = reordered(weight)
    assert copy is not None
    with torch.inference_mode():
        product, total = reordered_sum(x, copy), reordered_sum(x, copy, y)
    exact = x.double() @ weight.double().t()
    torch.testing.assert_close(product, exact.to(dtype))
    torch.testing.assert_close(total, (exact + y.double()).to(dtype))


@pytest.mark.parametrize("weight", [torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, device="meta")])
def test_what_the_library_does_not_reorder_stays(weight: torch.Tensor) -> None:
    assert reordered(weight) is None
