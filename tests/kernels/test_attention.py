"""Attention as batched products equals the plain formula, gradients too."""

import pytest
import torch
from torch import Tensor

from petune.kernels import attention
from petune.kernels.attention import attend, capped_attention, product_attention
from petune.kernels.dropout import draw_kept


def plain(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, scale: float) -> Tensor:
    """Return softmax(scale * q k^T) v [B, T, H, D], keys repeated for the heads that share them."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (scale * query @ key.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def inputs(heads: int, groups: int, queries: int, keys: int) -> list[Tensor]:
    """Return queries, keys and values laid out as a model's projections leave them."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((queries, heads), (keys, groups), (keys, groups))
    made = [torch.randn(3, n, h, 8, generator=generator, dtype=torch.float64).transpose(1, 2) for n, h in shapes]
    return [t.requires_grad_() for t in made]


def causal(queries: int, keys: int) -> Tensor:
    """Return what each query sees [3, 1, T, S]; the second row has padding on the left."""
    seen = torch.ones(3, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    seen[1, :, :, 0] = False
    seen[1, :, 0, 1] = True
    return seen


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (5, 9)])
@pytest.mark.parametrize("additive", [False, True])
def test_output_and_gradients_are_those_of_the_formula(
    heads: int, groups: int, queries: int, keys: int, additive: bool
) -> None:
    tensors, seen = inputs(heads, groups, queries, keys), causal(queries, keys)
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -1e300) if additive else seen
    ours, expected = product_attention(*tensors, mask, 0.3), plain(*tensors, seen, 0.3)
    torch.testing.assert_close(ours, expected)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, theirs in zip(
        torch.autograd.grad(ours, tensors, pull), torch.autograd.grad(expected, tensors, pull), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("additive", [False, True])
def test_output_without_gradients_is_that_of_the_formula(dtype: torch.dtype, additive: bool) -> None:
    tensors, seen = [t.detach().to(dtype) for t in inputs(6, 2, 5, 9)], causal(5, 9)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min) if additive else seen
    with torch.no_grad():
        torch.testing.assert_close(product_attention(*tensors, mask, 0.3), plain(*tensors, seen, 0.3))


def test_a_bias_of_each_head_is_added_to_its_own_scores() -> None:
    tensors = inputs(6, 2, 5, 5)
    bias = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    keys, values = (t.repeat_interleave(3, 1) for t in tensors[1:])
    scores = 0.3 * tensors[0] @ keys.transpose(-1, -2) + bias
    torch.testing.assert_close(product_attention(*tensors, bias, 0.3), (scores.softmax(-1) @ values).transpose(1, 2))


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
def test_scores_are_bounded_where_a_model_asks_for_it(heads: int, groups: int) -> None:
    query, key, value = inputs(heads, groups, 5, 9)
    seen, repeats = causal(5, 9), heads // groups
    keys, values = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = (1.5 * torch.tanh(0.3 * query @ keys.transpose(-1, -2) / 1.5)).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ values).transpose(1, 2)
    torch.testing.assert_close(capped_attention(query, key, value, seen, 0.3, 1.5), expected)
    got = attend(torch.nn.Module(), query, key, value, seen, scaling=0.3, softcap=1.5, dropout=0.0)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(expected, product_attention(query, key, value, seen, 0.3))


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    query, key, value = inputs(4, 2, 5, 5)
    key, value = key.detach(), value.detach()
    (gradient,) = torch.autograd.grad(product_attention(query, key, value, None, 0.3).sum(), [query])
    everything = torch.ones(3, 1, 5, 5, dtype=torch.bool)
    (expected,) = torch.autograd.grad(plain(query, key, value, everything, 0.3).sum(), [query])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("gradients", "queries", "ratio"), [(True, 33, 1.05), (False, 33, 1.3), (False, 1, 1.3)])
def test_low_precision_is_no_farther_from_the_truth_than_pytorch_s_kernel(
    gradients: bool, queries: int, ratio: float
) -> None:
    tensors, seen = [t.detach().to(torch.bfloat16) for t in inputs(4, 2, queries, 33)], causal(queries, 33)
    exact = plain(*(t.double() for t in tensors), seen, 0.3)
    query, key, value = tensors
    peer = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), seen, scale=0.3
    ).transpose(1, 2)
    with torch.set_grad_enabled(gradients):
        ours = product_attention(query, key, value, seen, 0.3)
    assert (ours.double() - exact).norm() < ratio * (peer.double() - exact).norm()


@pytest.mark.parametrize(
    ("heads", "groups", "queries", "keys", "dtype", "products"),
    [
        (4, 2, 1, 300, torch.bfloat16, True),
        (4, 4, 1, 300, torch.float32, True),
        (4, 4, 1, 300, torch.bfloat16, False),
        (4, 2, 9, 128, torch.bfloat16, True),
        (4, 2, 9, 129, torch.bfloat16, False),
    ],
)
def test_without_gradients_products_are_used_where_they_are_faster(
    heads: int,
    groups: int,
    queries: int,
    keys: int,
    dtype: torch.dtype,
    products: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, key, value = (t.detach().to(dtype) for t in inputs(heads, groups, queries, keys))
    seen, calls = causal(queries, keys), []

    def noting(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(None)
        return product_attention(*arguments)

    monkeypatch.setattr(attention, "product_attention", noting)
    module = torch.nn.Module()
    module.num_key_value_groups = heads // groups
    with torch.inference_mode():
        attend(module, query, key, value, seen, scaling=0.3)
        assert not calls  # elsewhere it is the bare model's kernel
        with attention.products_without_gradients():
            got = attend(module, query, key, value, seen, scaling=0.3)
    assert bool(calls) == products
    expected = plain(query.double(), key.double(), value.double(), seen, 0.3)
    torch.testing.assert_close(got.double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", ["s_aux", "sinks"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("queries", [5, 1])
def test_a_sink_takes_its_share_of_the_weights(name: str, masked: bool, queries: int) -> None:
    tensors, seen = inputs(6, 2, queries, 5), causal(queries, 5)
    sinks = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    if not masked:
        seen = torch.ones(queries, 5, dtype=torch.bool).tril(5 - queries)
    keys, values = (t.repeat_interleave(3, 1) for t in tensors[1:])
    scores = (0.3 * tensors[0] @ keys.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
    with_sinks = torch.cat([scores, sinks.view(1, 6, 1, 1).expand(3, -1, queries, -1)], -1)
    expected = (with_sinks.softmax(-1)[..., :-1] @ values).transpose(1, 2)

    given = sinks if name == "s_aux" else sinks.view(1, 6, 1, 1).expand(3, 6, queries, 1)
    module = torch.nn.Module()
    module.num_key_value_groups = 3
    for learned in (True, False):  # a sink that learns needs the gradient of the mask
        options = {name: given if learned else given.detach(), "scaling": 0.3}
        ours = attend(module, *tensors, seen if masked else None, **options)
        torch.testing.assert_close(ours, expected)
        leaves = [*tensors, sinks] if learned else tensors
        pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for mine, theirs in zip(
            torch.autograd.grad(ours, leaves, pull, retain_graph=True),
            torch.autograd.grad(expected, leaves, pull, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("trains", [True, False])
def test_autocast_rounds_no_score(capped: bool, trains: bool) -> None:
    tensors, seen = [t.detach().float().requires_grad_(trains) for t in inputs(6, 2, 5, 9)], causal(5, 9)

    def outputs() -> list[Tensor]:
        with torch.set_grad_enabled(trains):
            found = capped_attention(*tensors, seen, 0.3, 5.0) if capped else product_attention(*tensors, seen, 0.3)
        return [found, *torch.autograd.grad(found.square().sum(), tensors)] if trains else [found]

    expected = outputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = outputs()
    if capped:  # its backward pass is PyTorch's own, which autocast lowers inside the block
        found, expected = found[:1], expected[:1]
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shown", ["a mask", "everything"])
def test_dropout_is_of_the_weights(shown: str) -> None:
    tensors = [t.detach().float().requires_grad_() for t in inputs(6, 2, 5, 9)]
    query, key, value = tensors
    seen = causal(5, 9) if shown == "a mask" else None
    module = torch.nn.Module()
    module.is_causal = False  # type: ignore[assignment]
    torch.manual_seed(5)
    ours = attend(module, query, key, value, seen, scaling=0.3, dropout=0.25)
    torch.manual_seed(5)
    kept, scale = draw_kept(torch.Size((3 * 2, 3 * 5, 9)), 0.25)
    assert not kept.all()
    wide_key, wide_value = key.repeat_interleave(3, 1), value.repeat_interleave(3, 1)
    scores = 0.3 * query @ wide_key.transpose(-1, -2)
    weights = (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(-1)
    expected = ((weights * kept.view(weights.shape) * scale) @ wide_value).transpose(1, 2)
    torch.testing.assert_close(ours, expected)
    pull = torch.randn(expected.shape)
    for mine, theirs in zip(
        torch.autograd.grad(ours, tensors, pull), torch.autograd.grad(expected, tensors, pull), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_without_a_mask_a_causal_module_is_left_to_the_library() -> None:
    query, key, value = (t.detach().float().requires_grad_() for t in inputs(4, 4, 6, 6))
    module = torch.nn.Module()
    seen = torch.ones(3, 1, 6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(
        attend(module, query, key, value, None, scaling=0.3), plain(query, key, value, seen, 0.3)
    )


def test_what_is_said_to_be_none_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *_, **__: pytest.fail("it was left to the library"))
    query, key, value = inputs(4, 4, 7, 7)
    seen = causal(7, 7)
    got = attend(torch.nn.Module(), query, key, value, seen, scaling=0.3, encoder_hidden_states=None)
    torch.testing.assert_close(got, plain(query, key, value, seen, 0.3))
