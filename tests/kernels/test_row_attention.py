"""Attention of rows that lie end to end equals that of each row alone."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from petune.kernels.row_attention import NotByRowError, RowLayout, attend_by_row

LENGTHS = [3, 1, 5, 4]
CPU = torch.device("cpu")


def tensors(kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((4, 6), (kv_heads, 6), (kv_heads, 6))
    made = [torch.randn(sum(LENGTHS), heads, 1, width, generator=generator) for heads, width in sizes]
    query, key, value = (tensor.requires_grad_() for tensor in made)
    return query, key, value


def alone(query: Tensor, key: Tensor, value: Tensor, fronts: Mapping[int, int]) -> Tensor:
    """Return the output [N, 1, H, D], row by row, by the formula."""
    split = [t[:, :, 0].transpose(0, 1).split(LENGTHS, 1) for t in (query, key, value)]
    outputs = []
    for row, q in enumerate(split[0]):
        seen = [row]
        while seen[0] in fronts:
            seen.insert(0, fronts[seen[0]])
        k, v = (torch.cat([parts[i] for i in seen], 1) for parts in split[1:])
        k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
        scores = 0.3 * q @ k.transpose(1, 2)
        hidden = torch.ones(scores.shape[1:]).triu(1 + k.shape[1] - LENGTHS[row]).bool()
        outputs.append((scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)[:, None]


@pytest.mark.parametrize("buckets", [[[0, 1, 2, 3]], [[2, 3], [0], [1]], [[3, 0], [1, 2]]], ids=str)
@pytest.mark.parametrize("learned", [True, False], ids=["products", "the library's"])
@pytest.mark.parametrize("fronts", [{}, {2: 0, 3: 1}, {1: 0, 2: 1, 3: 1}], ids=str)
def test_each_token_sees_its_own_row_and_the_one_in_front(
    buckets: list[list[int]], learned: bool, fronts: dict[int, int]
) -> None:
    inputs = tensors()
    layout = RowLayout(LENGTHS, buckets, CPU, fronts)
    layout.attended = []
    module = nn.Module()
    module.num_key_value_groups = 2  # type: ignore[assignment]
    with torch.set_grad_enabled(learned):
        found = attend_by_row(module, *inputs, layout, scaling=0.3, dropout=0.0)
    expected = alone(*inputs, fronts)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert layout.attended == [module]
    if learned:
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
        ours = torch.autograd.grad((found * weights).sum(), inputs)
        for gradient, exact in zip(ours, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
            torch.testing.assert_close(gradient, exact, rtol=1e-5, atol=1e-6)


def test_where_rows_and_tokens_are() -> None:
    layout = RowLayout(LENGTHS, [[2, 3], [0, 1]], CPU)
    assert layout.positions.tolist() == [0, 1, 2, 0, 0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert layout.bounds.tolist() == [0, 3, 4, 9, 13]
    assert layout.longest == 5
    assert layout.rows.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3]
    assert [bucket.index.tolist() for bucket in layout.padded()[0]] == [
        [4, 5, 6, 7, 8, 9, 10, 11, 12, 12],  # behind a row's end its own last token
        [0, 1, 2, 3, 3, 3],
    ]


def test_positions_go_on_behind_what_stands_in_front() -> None:
    layout = RowLayout(LENGTHS, [[0, 1, 2, 3]], CPU, {1: 0, 3: 1})
    assert layout.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 5, 6, 7]


def test_what_is_not_finite_stays_in_its_row() -> None:
    query, key, value = (t.detach().clone() for t in tensors())
    for tensor in (query, key, value):
        tensor[3] = float("nan")
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    module = nn.Module()
    found = attend_by_row(module, *inputs, RowLayout(LENGTHS, [[0, 1, 2, 3]], CPU), scaling=0.3)
    others = torch.arange(len(found)) != 3
    assert found[others].isfinite().all()
    for gradient in torch.autograd.grad(found.sum(), inputs):
        assert gradient[others].isfinite().all()


def test_an_attention_that_wants_more() -> None:
    layout = RowLayout(LENGTHS, [[0, 1, 2, 3]], CPU)
    with pytest.raises(NotByRowError, match="Module is told scaling, position_bias"):
        attend_by_row(nn.Module(), *tensors(), layout, scaling=0.3, position_bias=torch.zeros(1))


def test_a_window_changes_nothing_for_rows_within_it() -> None:
    layout, behind = (RowLayout(LENGTHS, [[0, 1, 2, 3]], CPU, fronts) for fronts in ({}, {3: 2}))
    assert (layout.reach, behind.reach) == (5, 9)
    for known, within in ((layout, 5), (behind, 9)):
        plain = attend_by_row(nn.Module(), *tensors(), known, scaling=0.3)
        known.attended = []
        assert torch.equal(attend_by_row(nn.Module(), *tensors(), known, scaling=0.3, sliding_window=within), plain)
        assert known.window == within
        with pytest.raises(NotByRowError, match=f"looks back over {within - 1} tokens, and a row has {within}; pad"):
            attend_by_row(nn.Module(), *tensors(), known, scaling=0.3, sliding_window=within - 1)
