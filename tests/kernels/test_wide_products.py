"""Products in half precision computed in float32, where a CPU has no instructions for them, or slow ones."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.kernels import wide_products as module
from petune.kernels.attention import product_attention
from petune.kernels.loss_head import label_cross_entropy
from petune.kernels.low_rank import add_low_rank, add_low_rank_by_run, low_rank
from petune.kernels.wide_products import (
    LEAST_ROWS,
    LEAST_ROWS_WITH_INSTRUCTIONS,
    NEVER,
    WideLinear,
    is_slow,
    is_wide,
    least_rows,
    linear,
    wide_products,
)
from petune.sites.head import LabelLoss
from petune.training.compiled_blocks import compiled_blocks

ROWS = 2 * LEAST_ROWS


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("most_numbers", [module.MOST_NUMBERS, 20], ids=["whole", "in parts"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(ROWS,), (2, LEAST_ROWS)], ids=str)
def test_values_and_gradients_are_the_float32_ones_rounded_once(
    shape: tuple[int, ...], master: torch.dtype, transposed: bool, most_numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_NUMBERS", most_numbers)
    x = normal(*shape, 7).bfloat16().requires_grad_()
    weight = normal(*((7, 5) if transposed else (5, 7)), seed=1).to(master).requires_grad_()
    bias = normal(5, seed=2).to(master).requires_grad_()
    direction = normal(*shape, 5, seed=3).bfloat16()

    y = linear(x, weight, bias, transposed=transposed)
    found = torch.autograd.grad(y, (x, weight, bias), direction)

    exact = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    expected = F.linear(exact[0], exact[1].t() if transposed else exact[1], exact[2])
    wanted = torch.autograd.grad(expected, exact, direction.float())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected.bfloat16(), rtol=8e-3, atol=1e-6)
    for gradient, tensor, other in zip(found, (x, weight, bias), wanted, strict=True):
        assert gradient.dtype == tensor.dtype
        torch.testing.assert_close(gradient, other.to(tensor.dtype), rtol=8e-3, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(linear(x, weight, bias, transposed=transposed), y)


@pytest.mark.usefixtures("slow")
def test_nothing_is_kept_in_float32() -> None:
    x = normal(ROWS, 8).bfloat16().requires_grad_()
    frozen, learned = normal(8, 8, seed=1).bfloat16(), normal(8, 8, seed=2).bfloat16().requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(x, frozen)
        assert [t.data_ptr() for t in kept] == [frozen.data_ptr()], "a frozen weight needs no input"
        linear(x.detach(), learned)
    assert [t.data_ptr() for t in kept[1:]] == [x.data_ptr()]


@pytest.mark.usefixtures("slow")
def test_few_rows_and_float32_are_multiplied_as_they_are() -> None:
    weight = normal(6, 9).bfloat16()
    few, many = (normal(rows, 9, seed=1).bfloat16() for rows in (LEAST_ROWS - 1, LEAST_ROWS))
    assert not is_wide(few)
    assert is_wide(many)
    assert not is_wide(many.float())
    assert not is_wide(many.to("meta"))
    assert torch.equal(linear(few, weight), F.linear(few, weight))


@pytest.mark.parametrize(
    ("plain", "has", "fast", "of_bfloat16", "of_float16"),
    [
        (2.4, True, True, NEVER, NEVER),
        (2.4, True, False, LEAST_ROWS_WITH_INSTRUCTIONS, NEVER),
        (2.4, False, False, NEVER, NEVER),
        (2.5, True, True, LEAST_ROWS, LEAST_ROWS),
        (40.0, False, False, LEAST_ROWS, LEAST_ROWS),
    ],
)
def test_a_type_is_slow_if_float32_takes_far_less_time(
    plain: float, has: bool, fast: bool, of_bfloat16: int, of_float16: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "_least_rows", {})
    monkeypatch.setattr(module, "_least_seconds", lambda *works: (asked.append(len(works)), [plain, 1.0])[1])
    monkeypatch.setattr(module, "has_bfloat16", lambda: has)
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda: fast)
    assert [least_rows(torch.bfloat16) for _ in range(3)] == [of_bfloat16] * 3
    assert asked == [2], "it is measured once"
    assert least_rows(torch.float16) == of_float16
    assert [is_slow(dtype) for dtype in module.HALVES] == [plain >= 2.5] * 2


def test_both_ways_are_timed_in_turn() -> None:
    done: list[str] = []
    seconds = module._least_seconds(lambda: done.append("a"), lambda: done.append("b"))
    assert done == ["a", "b"] * (len(done) // 2)
    assert len(done) > 4
    assert all(0 < own < 1 for own in seconds)
    assert module._gain(torch.bfloat16) > 0


@pytest.mark.usefixtures("even")
def test_where_there_are_instructions_more_rows_are_needed() -> None:
    model = nn.Sequential(nn.Linear(9, 6)).bfloat16()
    with wide_products(model):
        assert isinstance(model[0], WideLinear)
        assert not module.multiplies_slowly(model[0])
    few, many = (normal(LEAST_ROWS_WITH_INSTRUCTIONS - less, 9).bfloat16() for less in (1, 0))
    assert not is_wide(few)
    assert is_wide(many)


@torch.no_grad()
def test_room_is_used_again_and_given_up_with_the_block() -> None:
    with wide_products(nn.Linear(2, 2)):
        first = module.room("rows", 4, 6)
        assert module.room("rows", 3, 8).data_ptr() == first.data_ptr()
        assert module.room("rows", 2, 3).shape == (2, 3)
        assert module.room("others", 4, 6).data_ptr() != first.data_ptr()
        assert module.room("rows", 5, 6).data_ptr() != first.data_ptr(), "more than there is"
        with torch.inference_mode():
            assert not module.room("matrix", 9).is_inference(), "it outlives the mode"
        assert set(module._rooms.held) == {"rows", "others", "matrix"}
        with ThreadPoolExecutor(1) as other:
            assert other.submit(lambda: dict(module._rooms.held)).result() == {}
    assert not module._rooms.held


@torch.no_grad()
def test_large_room_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 24)
    with wide_products(nn.Linear(2, 2)):
        assert module.room("rows", 5, 5).shape == (5, 5)
        assert not module._rooms.held
        assert module.room("rows", 4, 6).shape == (4, 6)
        assert set(module._rooms.held) == {"rows"}


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, *module.HALVES], ids=str)
def test_numbers_in_float32_are_the_same(dtype: torch.dtype) -> None:
    x = normal(4, 6).to(dtype)
    for given in (x, x.t(), x[:, :3], x[::2].t()):
        found = module.widened("rows", given)
        assert found.dtype == torch.float32
        assert torch.equal(found, given.float())
    assert module.widened("rows", x.float()).data_ptr() != module.room("rows", 24).data_ptr()


@pytest.mark.usefixtures("slow")
def test_what_a_product_gives_is_nobody_elses() -> None:
    x, weight = normal(ROWS, 8).bfloat16(), normal(8, 8, seed=1).bfloat16()
    a, b, y = normal(2, 8, seed=2), normal(8, 2, seed=3), normal(ROWS, 8, seed=4)
    found = [linear(x, weight), linear(2 * x, weight), add_low_rank(x, y, a, b, 0.5), add_low_rank(x, x, a, b, 0.5)]
    assert torch.equal(found[1], 2 * found[0])
    assert torch.equal(y, normal(ROWS, 8, seed=4)), "it stays as it is where it is in float32 already"
    assert len({t.data_ptr() for t in (*found, x, y, *module._rooms.held.values())}) == 6 + len(module._rooms.held)


@pytest.mark.usefixtures("slow")
def test_a_gradient_has_a_gradient() -> None:
    x, weight, target = (normal(ROWS, 8, seed=seed).bfloat16().requires_grad_() for seed in range(3))
    a, b = normal(2, 8, seed=3).requires_grad_(), normal(8, 2, seed=4).requires_grad_()
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        given = [t.detach().to(dtype).requires_grad_() for t in (x, weight[:8], target)]
        y = add_low_rank(given[0], linear(given[0], given[1]), a, b, 0.5)
        (first,) = torch.autograd.grad((y.float() * given[2].float()).pow(2).sum(), given[0], create_graph=True)
        found.append(torch.autograd.grad(first.float().pow(2).sum(), given[0])[0].float())
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()


class Wider(nn.Linear):
    """A linear with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), Conv1D(10, 12), nn.Linear(10, 6, bias=False), Wider(6, 4)).bfloat16()


@pytest.mark.usefixtures("slow")
def test_linears_of_a_model_are_wide_inside_and_as_before_afterwards() -> None:
    model, x = stack(), normal(ROWS, 8).bfloat16()
    model[2].forward = lambda y: y[..., :6]
    seen: list[torch.Size] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    expected = model.float()(x.float())
    model.bfloat16()
    kinds = [type(part) for part in model]
    with wide_products(model):
        with wide_products(model):
            assert isinstance(model[0], WideLinear)
            assert [type(part) for part in model] == [*module._WIDE.values(), nn.Linear, Wider]
            found = model(x)
        assert isinstance(model[0], WideLinear), "the outer block goes on"
    assert [type(part) for part in model] == kinds
    torch.testing.assert_close(found.float(), expected, rtol=3e-2, atol=3e-2)
    assert len(seen) == 2

    def fail_inside() -> None:
        with wide_products(model):
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert [type(part) for part in model] == kinds


@pytest.mark.usefixtures("fast")
def test_where_half_precision_is_fast_nothing_changes() -> None:
    model = stack()
    with wide_products(model):
        assert type(model[0]) is nn.Linear
    x = normal(ROWS, 8).bfloat16()
    assert torch.equal(linear(x, model[0].weight, model[0].bias), model[0](x))


def of_kernels(dtype: torch.dtype) -> list[Tensor]:
    """Return what the kernels that multiply give, with their gradients, for the same numbers in ``dtype``."""
    x, y = (normal(ROWS, 6, seed=seed).to(dtype).requires_grad_() for seed in (0, 1))
    a, b = (normal(*shape, seed=5).requires_grad_() for shape in ((2, 6), (6, 2)))
    runs = ((0, 0, LEAST_ROWS - 3), (1, LEAST_ROWS - 3, ROWS))
    query, key, value = (normal(2, 4, 8, 6, seed=seed).to(dtype).requires_grad_() for seed in (6, 7, 8))
    head, labels = normal(11, 6, seed=9).to(dtype).requires_grad_(), torch.arange(ROWS) % 11
    found = [
        add_low_rank(x, y, a, b, 0.5),
        low_rank(x, a, b, 0.5),
        add_low_rank_by_run(x, y, [(a, b), (b.t(), a.t())], [0.5, 2.0], runs),
        product_attention(query, key, value, None, 0.4),
        label_cross_entropy(x, head, labels),
    ]
    learned = (x, y, a, b, query, key, value, head)
    total = torch.stack([(out.float() * normal(*out.shape, seed=10)).sum() for out in found]).sum()
    gradients = torch.autograd.grad(total, learned)
    assert [g.dtype for g in gradients] == [t.dtype for t in learned]
    with torch.no_grad():
        found.append(product_attention(query, key, value, None, 0.4))
    return [t.detach().double() for t in (*found, *gradients)]


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("dtype", module.HALVES, ids=str)
def test_kernels_that_multiply_give_the_same(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    wide, exact = of_kernels(dtype), of_kernels(torch.float32)
    monkeypatch.setattr(module, "_least_rows", dict.fromkeys(module.HALVES, NEVER))
    plain = of_kernels(dtype)
    for number, (ours, theirs, wanted) in enumerate(zip(wide, plain, exact, strict=True)):
        ours_off, theirs_off = ((found - wanted).norm() / wanted.norm() for found in (ours, theirs))
        assert ours_off < 2e-2, number
        assert ours_off <= 1.5 * theirs_off + 1e-4, f"{number}: farther from float32 than before"


@pytest.mark.parametrize("method", ["lora", "prefix_tuning", "prompt_tuning", "bottleneck", "llama_adapter", "full"])
def test_training_is_as_near_to_float32_as_before(
    method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, dtype, answer in (
        ("exact", None, False),
        ("plain", torch.bfloat16, False),
        ("wide", torch.bfloat16, True),
    ):
        monkeypatch.setattr(module, "_least_rows", dict.fromkeys(module.HALVES, LEAST_ROWS if answer else NEVER))
        base = tiny_base()
        if dtype is not None:
            base.model.to(dtype)
        model = AdaptedModel(base, [randomise(create_adapter(base, method))])
        found[name] = learned(model)
        assert (WideLinear in found[name][2]) == answer
    for number in (0, 1):
        exact = found["exact"][number]
        plain, wide = ((found[name][number] - exact).norm() / exact.norm() for name in ("plain", "wide"))
        assert wide < 0.1
        assert wide <= 1.5 * plain + 1e-3


def learned(model: AdaptedModel, *, compiled: bool = False) -> tuple[Tensor, Tensor, set[type[nn.Module]]]:
    """Return the losses of a batch, all gradients, and the kinds of module that ran."""
    adapter = next(iter(model.adapters.values()))
    adapter.set_trainable(True)
    model.train()
    ids = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    with model.fast_training(compiled=compiled), model.route([adapter.name] * len(ids)):
        objective = LabelLoss(model.model, model.plugged_into)
        losses = objective({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
        losses.sum().backward()
        kinds = {type(part) for part in model.model.modules()}
        assert objective._fused(), "a wide head is a plain one"
    gradients = [p.grad.flatten().float() for p in adapter.parameters() if p.grad is not None]
    return losses.detach().float(), torch.cat(gradients), kinds


@pytest.mark.usefixtures("slow")
@pytest.mark.filterwarnings("default")  # torch warns of its own ways while it traces
def test_compiled_blocks_share_graphs(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> None:
    base = tiny_base(dtype=torch.bfloat16)
    model = AdaptedModel(base, [randomise(create_adapter(base, "lora"))])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = learned(model)
    next(iter(model.adapters.values())).zero_grad(set_to_none=True)
    with compiled_blocks(model.model, base.structure, backend="eager"):
        compiled = learned(model, compiled=True)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert 1 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    for ours, theirs in zip(compiled[:2], plain[:2], strict=True):
        assert (ours - theirs).norm() < 0.05 * theirs.norm(), "they differ by rounding"


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "t5"])
def test_answers_are_as_near_to_float32_as_before(
    architecture: str, tiny_base: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AdaptedModel(tiny_base(architecture))
    ids = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if architecture == "t5" else {})
    product, weights = module._forward, []
    monkeypatch.setattr(module, "_forward", lambda *given: (weights.append(given[1]), product(*given))[1])
    with torch.inference_mode():
        exact = model(**inputs).logits
        model.model.bfloat16()
        plain = model(**inputs).logits
        assert not weights
        with model.fast_inference():
            linears = [part for part in model.model.modules() if isinstance(part, WideLinear | module.WideConv1D)]
            wide = model(**inputs).logits
    assert 0 < len(linears) <= len(weights)
    off = [((logits.float() - exact).norm() / exact.norm()).item() for logits in (wide, plain)]
    assert off[0] <= 1.2 * off[1] + 1e-3
