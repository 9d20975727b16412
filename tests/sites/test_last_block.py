"""The last feed-forward part for label positions alone: the same losses and gradients, and where it stays whole."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.sites import last_block
from petune.sites.head import LabelLoss
from petune.sites.last_block import last_feed_forward
from petune.training.compiled_blocks import compiled_blocks
from petune.training.recomputation import KINDS, gradient_checkpointing, parts_of, recomputed

ROWS, TOKENS = 3, 10
PLACES = {
    "llama": "model.layers.2.mlp",
    "gpt2": "transformer.h.1.mlp",
    "gpt_neox": "gpt_neox.layers.1.mlp",
    "bloom": "transformer.h.1.mlp",
    "gemma2": "model.layers.1.mlp",
    "falcon": "transformer.h.1.mlp",
    "phi": "model.layers.1.mlp",
    "opt": None,
    "mamba": None,
    "bert": None,
    "t5": None,
}
"""Where architectures have a feed-forward part that may be computed for some tokens."""


@pytest.fixture
def batch(token_ids: Callable[..., Tensor]) -> dict[str, Tensor]:
    """Three padded rows that end in one, two and three labels."""
    ids = token_ids(ROWS, TOKENS)
    mask = torch.ones_like(ids)
    mask[2, 7:] = 0
    labels = torch.full_like(ids, -100)
    labels[0, 9:], labels[1, 8:], labels[2, 4:7] = ids[0, 9:], ids[1, 8:], ids[2, 4:7]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@contextmanager
def widths_seen(model: PreTrainedModel, path: str) -> Iterator[list[int]]:
    """Note how many tokens each pass takes through the first linear of the module at ``path``."""
    seen: list[int] = []
    linear = next(part for part in model.get_submodule(path).modules() if isinstance(part, nn.Linear | Conv1D))
    handle = linear.register_forward_hook(lambda m, x, y: seen.append(y.shape[:-1].numel()))
    try:
        yield seen
    finally:
        handle.remove()


def losses_and_gradients(
    model: AdaptedModel, batch: dict[str, Tensor], names: Sequence[str | None], *, fast: bool, compiled: bool = False
) -> list[Tensor]:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    parameters = [p for adapter in model.adapters.values() for p in adapter.parameters() if p.requires_grad]
    objective = LabelLoss(model.model, model.plugged_into)
    with model.fast_training(compiled=compiled) if fast else nullcontext(), model.route(names):
        losses = objective(inputs, batch["labels"], model)
        return [losses.detach(), *torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)]


def assert_alike(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted) > 1
    for ours, exact in zip(found, wanted, strict=True):
        assert (ours - exact).norm() <= 1e-4 * exact.norm() + 1e-6


@pytest.mark.parametrize("architecture", PLACES)
def test_which_models_have_one_is_measured(architecture: str, tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model(architecture)
    assert last_feed_forward(model, Structure(model)) == PLACES[architecture]
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("architecture", [name for name, path in PLACES.items() if path])
@pytest.mark.parametrize(
    "keys",
    [
        {"method": "lora", "target_modules": "all-linear"},
        {"method": "bottleneck"},
        {"method": "full"},
        {"method": "prefix_tuning"},
    ],
    ids=lambda keys: keys["method"],
)
def test_losses_and_gradients_are_those_of_all_tokens(
    architecture: str,
    keys: dict[str, Any],
    batch: dict[str, Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    base = tiny_base(architecture)
    adapter = randomise(create_adapter(base, **keys), scale=0.05)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter]).train()
    wanted = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=False)
    path = PLACES[architecture] or ""
    with widths_seen(base.model, path) as seen:
        found = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=True)
    assert seen[-1] == 6, "labels"
    assert_alike(found, wanted)
    assert "forward" not in base.model.get_submodule(path).__dict__


@pytest.mark.parametrize("names", [["a", "b", "a"], ["b", None, "a"], [None, None, "b"]])
def test_each_token_goes_through_the_adapters_of_its_row(
    names: list[str | None],
    batch: dict[str, Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    base = tiny_base()
    adapters = [
        randomise(create_adapter(base, "lora", name="a", target_modules="all-linear"), seed=1),
        randomise(create_adapter(base, "bottleneck", name="b"), seed=2),
    ]
    for adapter in adapters:
        adapter.set_trainable(True)
    model = AdaptedModel(base, adapters).train()
    wanted = losses_and_gradients(model, batch, names, fast=False)
    with widths_seen(base.model, "model.layers.2.mlp") as seen:
        assert_alike(losses_and_gradients(model, batch, names, fast=True), wanted)
    assert seen[-1] == 6


def test_adapters_that_read_across_its_edge_get_all_tokens(
    batch: dict[str, Tensor], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    adapter = randomise(create_adapter(base, "bottleneck", adapter_input="residual"))
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter]).train()
    wanted = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=False)
    with widths_seen(base.model, "model.layers.2.mlp") as seen:
        assert_alike(losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=True), wanted)
    assert seen[-1] == ROWS * TOKENS


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_what_is_computed_again_is_computed_for_as_many_tokens(
    kind: str, batch: dict[str, Tensor], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    adapters = [
        randomise(create_adapter(base, "lora", name=name, target_modules="all-linear"), seed=seed)
        for seed, name in enumerate(("a", "b"))
    ]
    for adapter in adapters:
        adapter.set_trainable(True)
    model, names = AdaptedModel(base, adapters).train(), ["a", "b", "a"]
    wanted = losses_and_gradients(model, batch, names, fast=False)
    objective = LabelLoss(model.model, model.plugged_into)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    parts = [part for part in parts_of(base.model, base.structure) if part.kind == kind]
    again = gradient_checkpointing(base.model) if kind == "all" else nullcontext()
    with (
        again,
        model.fast_training(),
        recomputed(base.model, parts),
        widths_seen(base.model, "model.layers.2.mlp") as seen,
        model.route(names),
    ):
        losses = objective(inputs, batch["labels"], model)
        gradients = torch.autograd.grad(losses.sum(), [p for adapter in adapters for p in adapter.parameters()])
    whole = kind in ("block", "all")
    assert set(seen[-2:]) == {ROWS * TOKENS if whole else 6}
    assert len(seen) >= (2 if kind == "feed-forward" else 1)
    assert_alike([losses.detach(), *gradients], wanted)


@pytest.mark.parametrize("labels", [0, 29])
def test_no_label_or_one_for_nearly_every_token_leaves_it_whole(
    labels: int, batch: dict[str, Tensor], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    adapter = randomise(create_adapter(base, "lora"))
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    ids = batch["input_ids"]
    batch["labels"] = torch.where(torch.arange(ids.numel()).view_as(ids) < labels, ids, -100)
    wanted = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=False)
    with widths_seen(base.model, "model.layers.2.mlp") as seen:
        assert_alike(losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=True), wanted)
    assert seen[-1] == ROWS * TOKENS


def test_passes_without_gradients_are_those_after_training(
    batch: dict[str, Tensor], tiny_base: Callable[..., Base]
) -> None:
    model = AdaptedModel(tiny_base())
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    objective = LabelLoss(model.model, model.plugged_into)
    with model.fast_training(), widths_seen(model.model, "model.layers.2.mlp") as seen, torch.no_grad():
        objective(inputs, batch["labels"])
    assert seen[-1] == ROWS * TOKENS


def _shifting(former: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: former(x.roll(1, dims=0))


def _over_all(former: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: former(x) + x.mean((0, 1))


def _with_more(former: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    return lambda x: (former(x), None)


@pytest.mark.parametrize("path", ["model.layers.2.mlp", "model.norm"])
@pytest.mark.parametrize("change", [_shifting, _over_all, _with_more])
def test_parts_that_look_at_other_tokens_stay_whole(
    path: str, change: Callable[..., Any], tiny_model: Callable[..., PreTrainedModel]
) -> None:
    model = tiny_model()
    module = model.get_submodule(path)
    module.forward = change(module.forward)
    assert last_feed_forward(model, Structure(model)) is None
    assert "forward" in module.__dict__


def test_it_is_measured_once(tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    structure = Structure(model)
    first = last_feed_forward(model, structure)
    monkeypatch.setattr(last_block, "body_of", None)
    assert last_feed_forward(model, structure) == first == "model.layers.2.mlp"


def test_a_head_that_is_none_has_no_label_positions(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    structure = SimpleNamespace(is_decoder_lm=True, repeats_blocks=True)
    assert last_feed_forward(model, structure) is None  # type: ignore[arg-type]
    other = tiny_model()
    other.set_output_embeddings(None)
    assert last_feed_forward(other, Structure(other)) is None


@pytest.mark.filterwarnings("default")  # torch warns of its own ways while it traces
def test_a_compiled_base_runs_its_last_block_plain(
    batch: dict[str, Tensor], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    adapter = randomise(create_adapter(base, "lora", target_modules="all-linear"))
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter]).train()
    wanted = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fewer = {**batch, "labels": batch["labels"].masked_fill(torch.tensor([[True], [False], [False]]), -100)}
    with compiled_blocks(base.model, base.structure, backend="eager"):
        found = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=True, compiled=True)
        losses_and_gradients(model, fewer, [adapter.name] * ROWS, fast=True, compiled=True)
    assert_alike(found, wanted)
    assert not torch._dynamo.utils.counters["graph_break"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2, (
        "of each other block, the first has no gradients behind it"
    )


def test_a_part_without_a_module_of_its_own_is_none(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    model.model.layers[2].mlp = nn.Identity()
    assert last_feed_forward(model, Structure(model)) is None


def test_a_pass_that_fails_leaves_the_module_as_it_was(
    batch: dict[str, Tensor], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    adapter = randomise(create_adapter(base, "lora", target_modules="all-linear"))
    model = AdaptedModel(base, [adapter]).train()
    wanted = losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=False)
    module = base.model.model.layers[2].mlp
    failing = module.gate_proj.register_forward_hook(_out_of_memory)
    with pytest.raises(MemoryError):
        losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=True)
    failing.remove()
    assert "forward" not in module.__dict__
    assert_alike(losses_and_gradients(model, batch, [adapter.name] * ROWS, fast=True), wanted)


def _out_of_memory(*_: Any) -> None:
    raise MemoryError
