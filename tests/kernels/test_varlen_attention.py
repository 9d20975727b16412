"""What PyTorch's kernel for rows of any lengths is asked for; a reference of its signature stands in on a CPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petune.kernels import row_attention, varlen_attention
from petune.kernels.row_attention import RowLayout, attend_by_row
from petune.kernels.varlen_attention import attend_in_place, has_varlen

LENGTHS = [3, 1, 5, 4]


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """Attend row by row by the formula, as the kernel's documentation says: a window of (-1, 0) looks back only."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert window_size == (-1, 0)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    outputs = []
    for start, end in zip(cu_seq_q.tolist(), cu_seq_q.tolist()[1:], strict=False):
        q, k, v = (t[start:end].transpose(0, 1) for t in (query, key, value))
        k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
        hidden = torch.ones(end - start, end - start).triu(1).bool()
        scores = scale * q @ k.transpose(1, 2)
        outputs.append((scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def inputs() -> Callable[[int], list[Tensor]]:
    """Queries of four heads, keys and values of some: ``inputs(2)``."""

    def make(groups: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(13, n, 1, 8, generator=generator).requires_grad_() for n in (4, groups, groups)]

    return make


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("scale", [0.3, None])
def test_it_stands_for_attention_that_is_padded(
    groups: int, scale: float | None, inputs: Callable[[int], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Module()
    module.num_key_value_groups = 4 // groups  # type: ignore[assignment]
    options = {} if scale is None else {"scaling": scale}
    weights = torch.randn(13, 1, 4, 8, generator=torch.Generator().manual_seed(1))
    found = []
    for in_place in (False, True):
        monkeypatch.setattr(varlen_attention, "_KERNEL", reference)
        monkeypatch.setattr(row_attention, "has_varlen", lambda *_, there=in_place: there)
        own = inputs(groups)
        layout = RowLayout(LENGTHS, [[2, 3], [0, 1]], torch.device("cpu"))
        layout.attended = []
        output = attend_by_row(module, *own, layout, **options)
        assert layout.attended == [module]
        found.append([output, *torch.autograd.grad((output * weights).sum(), own)])
    for padded, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, padded, rtol=1e-5, atol=1e-6)


def test_pytorch_has_the_kernel_as_it_is_called(inputs: Callable[[int], list[Tensor]]) -> None:
    assert varlen_attention._KERNEL is not None, "torch 2.13 has it"
    bounds = torch.tensor([0, 3, 4, 9, 13], dtype=torch.int32, device="meta")
    query, key, value = (t.detach()[:, :, 0].to("meta", torch.bfloat16) for t in inputs(2))
    assert attend_in_place(query, key, value, bounds, 5, 0.3).shape == (13, 4, 8)


@pytest.mark.parametrize(
    ("dtype", "width", "options", "fits"),
    [
        (torch.bfloat16, 64, {}, True),
        (torch.float16, 256, {"dropout": 0.0, "softcap": None}, True),
        (torch.float32, 64, {}, False),
        (torch.bfloat16, 12, {}, False),
        (torch.bfloat16, 264, {}, False),
        (torch.bfloat16, 64, {"dropout": 0.1}, False),
        (torch.bfloat16, 64, {"softcap": 30.0}, False),
    ],
)
def test_which_attentions_it_can_do(
    dtype: torch.dtype, width: int, options: dict[str, Any], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCard(torch.Tensor):
        device = torch.device("cuda")  # type: ignore[assignment]

    query = torch.empty(3, 4, 1, width, dtype=dtype)
    assert not has_varlen(query, query, options)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    there = query.as_subclass(OnCard)
    assert has_varlen(there, there, options) is fits
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not has_varlen(there, there, options)
