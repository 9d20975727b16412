"""What a kernel gives is its caller's own: models add to it and scale it in place."""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from torch import Tensor

from petune import kernels
from petune.kernels.attention import product_attention
from petune.kernels.dropout import dropout
from petune.kernels.gated_product import ACTIVATIONS, gated_product
from petune.kernels.loss_head import label_cross_entropy
from petune.kernels.low_rank import add_low_rank, add_low_rank_by_run
from petune.kernels.rms_norm import rms_norm
from petune.kernels.rotary import rotate
from petune.kernels.wide_products import LEAST_ROWS, linear

TOKENS, WIDTH = LEAST_ROWS, 8
A, B = torch.linspace(-1, 1, 2 * WIDTH).view(2, WIDTH), torch.linspace(1, 2, 2 * WIDTH).view(WIDTH, 2)
SQUARE = B @ A
LABELS = torch.arange(2 * TOKENS) % WIDTH
RUNS = ((0, 0, TOKENS), (1, TOKENS, 2 * TOKENS))


def dropped_alike(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return dropout(x, 0.5)


# Of rows [2, TOKENS, WIDTH].
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "_Dropout": dropped_alike,
    "_GatedProduct": lambda x: gated_product(x, x, ACTIVATIONS[0]),
    "_LabelCrossEntropy": lambda x: label_cross_entropy(x.flatten(0, 1), SQUARE, LABELS),
    "_LowRankByRun": lambda x: add_low_rank_by_run(
        x.flatten(0, 1), x.flatten(0, 1), [(A, B), (B.t(), A.t())], [0.5, 2.0], RUNS
    ),
    "_ProductAttention": lambda x: product_attention(x[None], x[None], x[None], None, 0.5),
    "_RMSNorm": lambda x: rms_norm(x, A[0], 1e-5),
    "_Rotation": lambda x: rotate(x[None], x[None], SQUARE[:1].cos(), SQUARE[:1].sin())[0],
    "_WideLowRank": lambda x: add_low_rank(x.bfloat16(), x.bfloat16(), A, B, 0.5),
    "_WideProduct": lambda x: linear(x.bfloat16(), SQUARE.bfloat16()),
}


def test_all_kernels_with_a_backward_pass_of_their_own_are_here() -> None:
    modules = [import_module(f"{kernels.__name__}.{found.name}") for found in iter_modules(kernels.__path__)]
    own = {name for module in modules for name, found in vars(module).items() if _is_own(found, module.__name__)}
    assert own == KERNELS.keys()


def _is_own(found: object, module: str) -> bool:
    return isinstance(found, type) and issubclass(found, torch.autograd.Function) and found.__module__ == module


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("name", KERNELS)
def test_what_it_gives_may_be_changed_in_place(name: str) -> None:
    x = torch.linspace(-2, 3, 2 * TOKENS * WIDTH).view(2, TOKENS, WIDTH).requires_grad_()
    kernel = KERNELS[name]
    assert name in backward_steps(kernel(x))
    (ours,), (wanted,) = (torch.autograd.grad(y.sum(), x) for y in (kernel(x).mul_(2), kernel(x) * 2))
    assert torch.equal(ours, wanted)


def backward_steps(y: Tensor) -> set[str]:
    """Return the names of the functions that ``y`` was made by."""
    steps, left = set(), [y.grad_fn]
    while left:
        step = left.pop()
        if step is not None:
            steps.add(step.name().removesuffix("Backward"))
            left += [before for before, _ in step.next_functions]
    return steps
