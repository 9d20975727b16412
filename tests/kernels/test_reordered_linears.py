import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from petune.kernels.reordered_linears import reordered_linears
from petune.kernels.wide_products import HALVES, LEAST_ROWS, LEAST_ROWS_WITH_INSTRUCTIONS, wide_products

TYPES = [torch.float32, torch.bfloat16]


class Wider(nn.Linear):
    """A linear with a forward pass of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def model_of(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 40, bias=False), Wider(40, 8)).to(dtype)


@pytest.mark.usefixtures("fast")
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


def mixed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(48, 96), Conv1D(40, 96), nn.Linear(40, 24, bias=False), Wider(24, 8))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, LEAST_ROWS])
def test_where_a_precision_is_slow_products_are_those_of_float32(dtype: torch.dtype, rows: int) -> None:
    model = mixed().to(dtype)
    given = [torch.randn(rows, 1, width).to(dtype) for width in (48, 96, 40)]
    with torch.inference_mode(), wide_products(model), reordered_linears(model) as number:
        assert number == 3
        assert "forward" not in vars(model[3]), "a sub-class has a forward pass of its own"
        found = [part(x) for part, x in zip(model, given, strict=False)]
    assert all("forward" not in vars(part) for part in model)
    for part, x, y in zip(model.float(), given, found, strict=False):
        torch.testing.assert_close(y, part(x.float()).to(dtype))


@pytest.mark.usefixtures("even")
def test_where_there_are_instructions_a_weight_stays_in_its_precision() -> None:
    model, x = model_of(torch.bfloat16), torch.randn(2, 1, 48).bfloat16()
    with torch.inference_mode(), wide_products(model):
        expected = model(x)
        with reordered_linears(model, most_bytes=2 * (48 * 96 + 96 * 40)) as number:
            assert number == 2
            assert torch.equal(model(x), expected)


@pytest.mark.usefixtures("even")
def test_there_the_rows_of_a_prompt_are_multiplied_in_float32_as_ever() -> None:
    model = model_of(torch.bfloat16)
    shown = [torch.randn(rows, 1, 48).bfloat16() for rows in (LEAST_ROWS_WITH_INSTRUCTIONS, 2)]
    with torch.inference_mode(), wide_products(model):
        expected = [model(x) for x in shown]
        with reordered_linears(model):
            model[0].weight.zero_()  # of which few rows have a copy
            prompt, token = (model(x) for x in shown)
    assert torch.equal(token, expected[1])
    assert torch.equal(prompt, prompt[:1].expand_as(prompt)), "every row is the bias"


@pytest.mark.usefixtures("slow")
def test_a_weight_is_converted_once() -> None:
    model, x = mixed().bfloat16(), torch.randn(2, 1, 48).bfloat16()
    with torch.inference_mode(), reordered_linears(model):
        before = model[0](x)
        model[0].weight.zero_()
        assert torch.equal(model[0](x), before)


@pytest.mark.usefixtures("slow")
def test_a_copy_in_float32_counts_as_large_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).bfloat16()
    for most, expected in ((4 * 64 - 1, 0), (4 * 64, 1), (2 * 4 * 64, 2)):
        with reordered_linears(model, most_bytes=most) as number:
            assert number == expected


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
