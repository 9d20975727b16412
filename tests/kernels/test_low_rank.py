"""The low-rank update against the plain formula."""

import pytest
import torch

from petune.kernels.low_rank import (
    FEW_ROWS,
    add_low_rank,
    add_low_rank_by_run,
    low_rank,
    updated_row_norms,
)
from petune.kernels.wide_products import HALVES


def problem(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x, y, a, b = normal(*shape, 7), normal(*shape, 5), normal(3, 7), normal(5, 3)
    return x.to(dtype), y.to(dtype), a.float(), b.float()


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3), (1, 1), (0, 3)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str)
def test_values_and_gradients_equal_the_formula(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    tensors = [t.requires_grad_() for t in problem(shape, dtype)]
    x, y, a, b = (t.detach().double().requires_grad_() for t in tensors)
    expected = y + 0.75 * x @ a.t() @ b.t()

    found = add_low_rank(*tensors, 0.75)

    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=10 * tolerance)
    if not expected.numel():
        return
    direction = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view(expected.shape)
    wanted = torch.autograd.grad((expected * direction).sum(), (x, y, a, b))
    ours = torch.autograd.grad((found * direction.to(dtype)).sum(), tensors)
    for gradient, tensor, exact in zip(ours, tensors, wanted, strict=True):
        assert gradient.dtype == tensor.dtype
        assert (gradient.double() - exact).norm() <= 2 * tolerance * exact.norm()


def test_inputs_are_left_alone() -> None:
    x, y, a, b = problem((2, 3), torch.float32)
    before = y.clone()
    result = add_low_rank(x, y, a, b, 2.0)
    assert torch.equal(y, before)
    assert result.data_ptr() != y.data_ptr()


def test_a_transposed_output_is_taken() -> None:
    x, y, a, b = problem((6,), torch.float32)
    strided = y.t().contiguous().t()
    assert not strided.is_contiguous()
    torch.testing.assert_close(add_low_rank(x, strided, a, b, 1.0), add_low_rank(x, y, a, b, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_row_norms_of_an_updated_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, a, b = torch.randn(5, 7).to(dtype), torch.randn(3, 7), torch.randn(5, 3)
    expected = (weight.double() + 0.6 * b.double() @ a.double()).norm(dim=1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(updated_row_norms(weight, a, b, 0.6).double(), expected, rtol=tolerance, atol=tolerance)
    zero = torch.zeros_like(b)
    assert torch.equal(updated_row_norms(weight, a, zero, 0.6), updated_row_norms(weight, 2 * a, zero, 1.0))


def test_low_rank_is_the_product() -> None:
    x, a, b = torch.randn(2, 4, 7), torch.randn(3, 7), torch.randn(5, 3)
    torch.testing.assert_close(low_rank(x, a, b, 0.6), 0.6 * x @ a.t() @ b.t())


@pytest.mark.parametrize(
    "runs",
    [((0, 0, 2), (1, 2, 5)), ((1, 0, 1), (0, 1, 4), (1, 4, 5)), ((0, 0, 0), (1, 0, 5))],
    ids=["two", "one twice", "an empty one"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str)
def test_runs_of_rows_have_their_own_pairs(
    runs: tuple[tuple[int, int, int], ...], dtype: torch.dtype, tolerance: float
) -> None:
    x, y, first_a, first_b = problem((5,), dtype)
    generator = torch.Generator().manual_seed(1)
    second_a, second_b = torch.randn(4, 7, generator=generator), torch.randn(5, 4, generator=generator)
    tensors = [t.requires_grad_() for t in (x, y, first_a, first_b, second_a, second_b)]
    scales = [0.6, 1.5]
    found = add_low_rank_by_run(x, y, [(first_a, first_b), (second_a, second_b)], scales, runs)
    assert found.dtype == dtype

    wide = [t.detach().double().requires_grad_() for t in tensors]
    parts = [scales[g] * wide[0][s:e] @ wide[2 + 2 * g].t() @ wide[3 + 2 * g].t() for g, s, e in runs]
    expected = wide[1] + torch.cat(parts)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=10 * tolerance)
    wanted = torch.autograd.grad((expected * expected.detach()).sum(), wide)
    ours = torch.autograd.grad((found * expected.detach().to(dtype)).sum(), tensors)
    for gradient, tensor, exact in zip(ours, tensors, wanted, strict=True):
        assert gradient.dtype == tensor.dtype
        assert (gradient.double() - exact).norm() <= 2 * tolerance * exact.norm()


def test_what_is_not_finite_in_one_run_reaches_no_other() -> None:
    x, y = torch.randn(4, 7), torch.randn(4, 5)
    x[0, 0] = float("nan")
    a, b, bad = torch.randn(2, 7), torch.randn(5, 2), torch.full((5, 2), float("inf"))
    tensors = [t.requires_grad_() for t in (x, y, a, bad, a.clone(), b)]
    found = add_low_rank_by_run(x, y, [(tensors[2], bad), (tensors[4], b)], [1.0, 1.0], ((0, 0, 2), (1, 2, 4)))
    gradients = torch.autograd.grad(found.sum(), tensors)
    assert not found[:2].isfinite().all()
    assert found[2:].isfinite().all()
    assert all(gradient.isfinite().all() for gradient in (gradients[0][2:], *gradients[4:]))


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_without_gradients_few_rows_are_no_farther_from_the_formula(dtype: torch.dtype, few: bool) -> None:
    x, y, a, b = problem((FEW_ROWS if few else FEW_ROWS + 1, 1), dtype)
    with torch.inference_mode():
        found = add_low_rank(x, y, a, b, 2.0)
    exact = y.double() + 2.0 * (x.double() @ a.double().t()) @ b.double().t()
    assert found.dtype == dtype
    if few and dtype in HALVES:
        torch.testing.assert_close(found, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)  # rounded once
    torch.testing.assert_close(found.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=40 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [6, 200])
def test_a_model_may_add_to_what_it_gets(rows: int, dtype: torch.dtype) -> None:
    x, y, a, b = (t.requires_grad_() for t in problem((rows,), dtype))
    halves = ((0, 0, rows // 2), (1, rows // 2, rows))
    for made in (add_low_rank(x, y, a, b, 0.5), add_low_rank_by_run(x, y, [(a, b), (a, b)], [0.5, 0.5], halves)):
        expected = torch.autograd.grad(made.sum(), (x, a, b), retain_graph=True)
        for ours, own in zip(torch.autograd.grad(made.add_(1.0).sum(), (x, a, b)), expected, strict=True):
            assert torch.equal(ours, own)
