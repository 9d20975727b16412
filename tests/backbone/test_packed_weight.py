import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from petune.backbone.gguf_blocks import GGUF_FORMATS
from petune.backbone.packed_weight import PackedWeight, is_packed, stored_bytes, whole
from petune.backbone.rounded_blocks import ROUNDINGS


def packed(rows: int = 24, width: int = 64, dtype: torch.dtype = torch.float32) -> PackedWeight:
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    return PackedWeight(ROUNDINGS["8bit"].blocks(weight), GGUF_FORMATS["Q8_0"], dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_to_torch_it_is_a_weight_of_full_size(dtype: torch.dtype) -> None:
    weight = nn.Parameter(packed(dtype=dtype), requires_grad=False)
    assert isinstance(weight, nn.Parameter)
    assert (weight.shape, weight.dtype, weight.numel()) == ((24, 64), dtype, 24 * 64)
    assert is_packed(weight)
    assert stored_bytes(weight) == 24 * 64 // 32 * 34
    assert stored_bytes(torch.ones(3)) == 12
    assert repr(weight) == f"PackedWeight(Q8_0, (24, 64), {dtype}, cpu)"


def test_unpacked_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = packed().dequantize()
    monkeypatch.setattr("petune.backbone.packed_weight.VALUES_AT_ONCE", 300)
    assert torch.equal(packed().dequantize(), at_once)
    assert torch.equal(packed(dtype=torch.bfloat16).dequantize(), at_once.bfloat16())


COMPUTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda w: w.t(),
    "in fp32": lambda w: w.detach().to(torch.float32) + 1,
    "row norms": lambda w: torch.linalg.vector_norm(w, dim=1),
    "rows by index": lambda w: w[torch.tensor([[3, 1], [0, -1]])],
    "slice": lambda w: w[2:4, :5],
    "joined": lambda w: torch.cat([w, w]),
    "as a first factor": lambda w: F.linear(w, torch.ones(2, 64, dtype=w.dtype)),
    "as a second factor": lambda w: torch.ones(2, 24, dtype=w.dtype) @ w,
    "looked up": lambda w: F.embedding(torch.tensor([[5, 5, 23]]), w),
    "copied": lambda w: whole(copy.deepcopy(w)),
}


@pytest.mark.parametrize("name", COMPUTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_computing_with_it_is_computing_with_its_numbers(name: str, dtype: torch.dtype) -> None:
    weight = packed(dtype=dtype)
    result = COMPUTED[name](weight)
    assert not is_packed(result)
    assert torch.equal(result, COMPUTED[name](weight.dequantize()))


def test_copies_and_moves_stay_packed() -> None:
    linear = nn.Linear(64, 24)
    linear.weight = nn.Parameter(packed(), requires_grad=False)
    twin = copy.deepcopy(linear)
    assert is_packed(twin.weight)
    assert isinstance(twin.weight, nn.Parameter)
    moved = twin.to("meta").weight
    assert is_packed(moved)
    assert (moved.device.type, stored_bytes(moved)) == ("meta", stored_bytes(linear.weight))
    assert is_packed(linear.weight.detach().clone())
    half = copy.deepcopy(linear).half().weight
    assert (is_packed(half), half.dtype) == (True, torch.float16)
    assert torch.equal(half.dequantize(), linear.weight.dequantize().half())


CHANGES: dict[str, Callable[[torch.Tensor], object]] = {
    "zero_": lambda w: w.zero_(),
    "a row": lambda w: w.__setitem__(0, 1.0),
    "init": nn.init.normal_,
    "out": lambda w: torch.add(torch.ones(24, 64), 1, out=w),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_cannot_be_changed(name: str) -> None:
    weight = packed()
    before = weight.dequantize()
    with pytest.raises(RuntimeError, match=r"a packed weight cannot be changed in place; make a plain tensor"):
        CHANGES[name](weight)
    assert torch.equal(weight.dequantize(), before)


def test_torch_compile_takes_it() -> None:
    linear = nn.Linear(64, 24)
    linear.weight = nn.Parameter(packed(), requires_grad=False)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    compiled = torch.compile(lambda x: linear(x).relu(), backend="aot_eager")
    assert torch.equal(compiled(x), linear(x).relu())
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.equal(gradient, torch.autograd.grad(linear(x).relu().sum(), x)[0])
