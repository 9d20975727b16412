"""The label loss against the plain formula in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from petune.kernels.loss_head import label_cross_entropy

N, D, V = 37, 12, 50


def problem(dtype: torch.dtype, *, bias: bool, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, V, (N,), generator=generator)
    offset = torch.randn(V, generator=generator).to(dtype).requires_grad_() if bias else None
    return hidden, weight, labels, offset


def oracle(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Return loss and gradients in float64."""
    wide = [t.detach().double().requires_grad_() for t in (hidden, weight, bias) if t is not None]
    logits = F.linear(*wide)
    loss = -torch.log_softmax(logits, -1)[torch.arange(len(labels)), labels].sum()
    return loss.detach(), list(torch.autograd.grad(3 * loss, wide))


def computed(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, chunk_rows: int
) -> tuple[Tensor, Iterator[Tensor]]:
    loss = label_cross_entropy(hidden, weight, labels, bias, chunk_rows).sum()
    found = torch.autograd.grad(3 * loss, [t for t in (hidden, weight, bias) if t is not None])
    return loss.detach(), iter(found)


@pytest.mark.parametrize("chunk_rows", [1, 5, 37, 512])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=str)
def test_loss_and_gradients_equal_the_formula(
    chunk_rows: int, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = problem(dtype, bias=bias)
    expected, gradients = oracle(*inputs)
    loss, found = computed(*inputs, chunk_rows)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    for ours, wanted in zip(found, gradients, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)], ids=str)
def test_small_precisions_sum_in_fp32(dtype: torch.dtype, tolerance: float) -> None:
    inputs = problem(dtype, bias=True)
    expected, gradients = oracle(*inputs)
    loss, found = computed(*inputs, 8)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    for ours, wanted in zip(found, gradients, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - wanted).norm() <= tolerance * wanted.norm()


def test_many_bf16_rows_lose_nothing_in_the_sum() -> None:
    labels = torch.zeros(20_000, dtype=torch.int64)
    hidden = torch.zeros(20_000, 4, dtype=torch.bfloat16)
    weight = torch.zeros(8, 4, dtype=torch.bfloat16)
    loss = label_cross_entropy(hidden, weight, labels).sum()
    torch.testing.assert_close(loss, torch.tensor(20_000 * torch.log(torch.tensor(8.0)).item()), rtol=1e-5, atol=0)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, labels, _ = problem(torch.float32, bias=False)
    loss = label_cross_entropy(hidden, weight.detach(), labels)
    loss.sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None
    assert not label_cross_entropy(hidden.detach(), weight.detach(), labels).requires_grad


def test_a_trainable_head_on_frozen_states() -> None:
    hidden, weight, labels, bias = problem(torch.float32, bias=True)
    assert bias is not None
    _, (_, d_weight, d_bias) = oracle(hidden, weight, labels, bias)
    (3 * label_cross_entropy(hidden.detach(), weight, labels, bias)).sum().backward()
    assert weight.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close(weight.grad.double(), d_weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias.grad.double(), d_bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learned", [(0,), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("chunk_rows", [5, 512])
def test_positions_may_count_differently(learned: tuple[int, ...], chunk_rows: int) -> None:
    hidden, weight, labels, bias = problem(torch.float64, bias=True)
    assert bias is not None
    counts = torch.rand(N, dtype=torch.float64)
    wide = [tensor.detach().requires_grad_() for tensor in (hidden, weight, bias)]
    losses = -torch.log_softmax(F.linear(*wide), -1)[torch.arange(N), labels]
    wanted = torch.autograd.grad((counts * losses).sum(), [wide[i] for i in learned])
    own = [tensor.detach().requires_grad_(i in learned) for i, tensor in enumerate((hidden, weight, bias))]
    found = label_cross_entropy(own[0], own[1], labels, own[2], chunk_rows)
    torch.testing.assert_close(found, losses)
    gradients = torch.autograd.grad((counts * found).sum(), [own[i] for i in learned])
    for ours, exact in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, exact)


def test_no_rows_cost_nothing() -> None:
    hidden, weight, _, _ = problem(torch.float32, bias=False)
    none = hidden[:0].detach().requires_grad_()
    loss = label_cross_entropy(none, weight, torch.zeros(0, dtype=torch.int64))
    assert loss.shape == (0,)
    loss.sum().backward()
    assert none.grad is not None
    assert none.grad.shape == (0, D)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1.0]]).requires_grad_()
    weight = torch.tensor([[1e30], [-1e30]])
    loss = label_cross_entropy(hidden, weight, torch.tensor([0]))
    assert loss.item() == 0.0
    assert label_cross_entropy(hidden, weight, torch.tensor([1])).item() == pytest.approx(2e30)
