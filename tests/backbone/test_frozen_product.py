import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from petune.backbone.gguf_blocks import GGUF_FORMATS
from petune.backbone.packed_weight import PackedWeight
from petune.backbone.rounded_blocks import ROUNDINGS


def twins(kind: type[nn.Module], dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Return a module whose weight is packed, and one with the same numbers, unpacked; their biases are learned."""
    torch.manual_seed(0)
    packed, plain = ((Conv1D(96, 64) if kind is Conv1D else nn.Linear(64, 96)).to(dtype) for _ in range(2))
    blocks = ROUNDINGS["8bit"].blocks(plain.weight)
    weight = PackedWeight(blocks, GGUF_FORMATS["Q8_0"], dtype)
    packed.weight = nn.Parameter(weight, requires_grad=False)
    plain.weight = nn.Parameter(weight.dequantize(), requires_grad=False)
    packed.bias = plain.bias
    return packed, plain


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_output_and_gradients_are_those_of_the_unpacked_weight(kind: type[nn.Module], dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    results = []
    for module in twins(kind, dtype):
        y = module(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, module.bias))))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_the_output_may_be_changed_in_place(kind: type[nn.Module]) -> None:
    packed, _ = twins(kind, torch.float32)
    x = torch.randn(2, 5, 64, requires_grad=True)
    ours, wanted = (torch.autograd.grad(y.sum(), (x, packed.bias)) for y in (packed(x).mul_(2), packed(x) * 2))
    assert all(map(torch.equal, ours, wanted))


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_nothing_unpacked_is_kept_for_the_backward_pass(kind: type[nn.Module]) -> None:
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    kept = []
    for module in twins(kind, torch.float32):
        module.requires_grad_(False)
        x = torch.randn(3, 64, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            module(x).sum().backward()
        kept.append(max(sizes, default=0))
        sizes.clear()
    assert kept == [0, 64 * 96]


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    packed, _ = twins(nn.Linear, torch.float32)
    assert not packed.requires_grad_(False)(torch.ones(1, 64)).requires_grad
