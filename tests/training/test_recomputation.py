"""Recomputed activations: on inside the block, gone after it."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.errors import ConfigError
from petune.training.recomputation import KINDS, Kind, described, gradient_checkpointing, parts_of, recomputed


def block_flags(model: PreTrainedModel) -> list[bool]:
    return [layer.gradient_checkpointing for layer in model.model.layers]


def test_on_inside_and_off_outside_also_after_an_error(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    with gradient_checkpointing(model):
        assert block_flags(model) == [True] * 3
    assert block_flags(model) == [False] * 3
    with pytest.raises(ValueError, match="broken"), gradient_checkpointing(model):
        raise ValueError("broken")
    assert block_flags(model) == [False] * 3
    model.requires_grad_(False)
    assert not model(input_ids=torch.tensor([[5, 6]])).logits.requires_grad


def test_an_architecture_that_cannot_is_refused(
    tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    monkeypatch.setattr(model, "supports_gradient_checkpointing", False)
    with (
        pytest.raises(ConfigError, match="LlamaForCausalLM cannot recompute activations; leave out --gradient-ch"),
        gradient_checkpointing(model),
    ):
        pass


def test_the_parts_of_blocks_cheap_ones_first(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    parts = parts_of(model, Structure(model))
    assert [(part.kind, part.block) for part in parts] == [
        (kind, block) for kind in ("norms", "feed-forward", "block") for block in (0, 1)
    ]
    assert parts[1].paths == tuple(
        f"model.layers.1.{name}" for name in ("mlp.act_fn", "input_layernorm", "post_attention_layernorm")
    )
    assert parts[2].paths == ("model.layers.0.mlp",)
    assert parts[5].paths == ("model.layers.1",)


def test_feed_forward_linears_without_a_module_of_their_own(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("opt")
    assert {part.kind for part in parts_of(model, Structure(model))} == {"norms", "block"}


def test_what_lies_inside_another_part_is_left_to_that(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    parts = parts_of(model, Structure(model))
    with recomputed(model, [*parts[:4], parts[5]]):
        own = {path for path, module in model.named_modules() if "forward" in module.__dict__}
        assert own == {"model.layers.0.mlp", *(f"model.layers.0.{n}_layernorm" for n in ("input", "post_attention"))}
        assert [layer.gradient_checkpointing for layer in model.model.layers] == [False, True]
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert [layer.gradient_checkpointing for layer in model.model.layers] == [False, False]


def test_in_words(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    parts = parts_of(model, Structure(model))
    assert described(parts[:1]) == "the norms and activations of 1 block"
    assert described(parts[:3]) == "the norms and activations of 2 blocks and the feed-forward part of 1 block"
    assert described(parts[:5]) == (
        "the norms and activations of 1 block, the feed-forward part of 1 block and all of 1 block"
    )
    assert described(parts) == "all of 2 blocks"
    assert described([]) == "nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_prompt_that_shares_a_pass_gets_the_same_gradient(
    kind: Kind,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base("llama"), token_ids(2, 7)
    prompt = create_adapter(base, "prompt_tuning", name="prompt", num_virtual_tokens=3)
    lora = create_adapter(base, "lora", name="lora", target_modules=("gate_proj", "up_proj", "down_proj"))
    model = AdaptedModel(base, [prompt, randomise(lora)]).train()
    parameters = [*prompt.parameters(), *lora.parameters()]
    for adapter in (prompt, lora):
        adapter.set_trainable(True)
    parts = [part for part in parts_of(base.model, base.structure) if part.kind == kind]
    found = []
    for context in (nullcontext(), recomputed(base.model, parts)):
        with context, model.route(["prompt", "lora"]):
            loss = model(input_ids=ids, use_cache=False).logits.sin().sum()
            found.append(torch.autograd.grad(loss, parameters))
    for again, kept in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(again, kept)


def test_what_stands_in_front_of_rows_is_computed_again_by_its_own_route(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base("llama"), token_ids(4, 7)
    adapters = [randomise(create_adapter(base, "lora", name=n, target_modules="all-linear")) for n in ("a", "b")]
    model = AdaptedModel(base, adapters).train()
    parameters = [parameter for adapter in adapters for parameter in adapter.parameters()]
    for adapter in adapters:
        adapter.set_trainable(True)
    parts = [part for part in parts_of(base.model, base.structure) if part.kind != "block"]
    found = []
    for context in (nullcontext(), recomputed(base.model, parts)):
        with context, model.route(["a", "b", "b", "a"]):
            with model.route(["a", "b"]):  # one row each, in front of the others
                front = model(input_ids=ids[:2], use_cache=False).logits.sin().sum()
            loss = front + model(input_ids=ids, use_cache=False).logits.sin().sum()
            found.append(torch.autograd.grad(loss, parameters))
    for again, kept in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(again, kept)


def test_parts_are_computed_again_where_somebody_else_lays_virtual_tokens(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base("llama"), token_ids(2, 7)
    adapter = create_adapter(base, "prompt_tuning", num_virtual_tokens=3)
    model = AdaptedModel(base, [adapter]).train()
    adapter.set_trainable(True)
    embeddings = base.model.get_input_embeddings()(ids).detach().requires_grad_()
    parts = [part for part in parts_of(base.model, base.structure) if part.kind == "norms"]
    kept = []
    for context in (nullcontext(), recomputed(base.model, parts)):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with context, model.without_virtual_tokens(), torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            model(inputs_embeds=embeddings, use_cache=False)
        kept.append(sum(sizes))
    assert kept[1] < kept[0]
