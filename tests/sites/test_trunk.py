"""The trunk: which blocks an adapter leaves untouched, and passes without them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.sites.trunk import Run, Trunk, find_trunk, lowest_block

TOP_OF = {
    "llama": "model.layers.{}.self_attn.q_proj",
    "gpt2": "transformer.h.{}.attn.c_attn",
    "gpt_neox": "gpt_neox.layers.{}.attention.query_key_value",
    "bloom": "transformer.h.{}.self_attention.query_key_value",
    "gemma2": "model.layers.{}.self_attn.q_proj",
    "opt": "model.decoder.layers.{}.self_attn.q_proj",
    "bert": "bert.encoder.layer.{}.attention.self.query",
}


def lora_on_top(base: Base, architecture: str, *extra: str) -> Adapter:
    top = TOP_OF[architecture].format(base.structure.num_blocks - 1)
    return create_adapter(base, "lora", r=2, target_modules=[top, *extra])


def batch(base: Base, others: int = 0) -> dict[str, Tensor]:
    """Two rows of different lengths, or two others."""
    ids = torch.randint(3, 200, (2, 7), generator=torch.Generator().manual_seed(others))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def run_of(model: nn.Module, base: Base) -> Run:
    def run(others: int) -> tuple[Tensor, Tensor]:
        inputs = batch(base, others)
        return model(**inputs)[0], inputs["attention_mask"].bool()

    return run


def found(base: Base, adapter: Adapter) -> tuple[AdaptedModel, Trunk | str]:
    model = AdaptedModel(base, [adapter])
    return model, find_trunk(base.model, base.structure, adapter.slots.items(), run_of(model, base))


def trunk_of(base: Base, adapter: Adapter) -> tuple[AdaptedModel, Trunk]:
    model, trunk = found(base, adapter)
    assert isinstance(trunk, Trunk), trunk
    return model, trunk


@pytest.mark.parametrize("architecture", TOP_OF)
def test_a_pass_without_the_trunk_equals_the_whole_one(
    architecture: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(architecture)
    adapter = lora_on_top(base, architecture)
    model, trunk = trunk_of(base, randomise(adapter))
    assert trunk.height == base.structure.num_blocks - 1
    with trunk.watched() as seen:
        whole = model(**batch(base))[0]
    calls = []
    handle = base.model.get_submodule(TOP_OF[architecture].format(0)).register_forward_hook(lambda *_: calls.append(1))
    with trunk.left_out(seen[0]):
        shortened = model(**batch(base))[0]
    assert torch.equal(shortened, whole)
    assert calls == []
    model(**batch(base))
    handle.remove()
    assert calls == [1]
    assert (trunk.width, trunk.dtype) == (base.structure.hidden_size, torch.float32)


def test_gradients_are_those_of_the_whole_pass(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base("llama")
    adapter = lora_on_top(base, "llama")
    adapter.set_trainable(True)
    model, trunk = trunk_of(base, randomise(adapter))
    with trunk.watched() as seen:
        model(**batch(base))[0].square().sum().backward()
    whole = {name: p.grad.clone() for name, p in adapter.named_masters()}
    adapter.zero_grad()
    with trunk.left_out(seen[0]):
        model(**batch(base))[0].square().sum().backward()
    assert all(torch.equal(p.grad, whole[name]) for name, p in adapter.named_masters())
    assert all(gradient.any() for gradient in whole.values())


def test_what_is_learned_says_how_high_the_trunk_is(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")

    def lowest(method: str, **options: Any) -> int:
        return lowest_block(base.model, base.structure, create_adapter(base, method, **options).slots.items())

    assert lowest("llama_adapter", adapter_layers=1) == 2
    assert lowest("lora", layers_to_transform=[1, 2]) == 1
    assert lowest("lora") == 0
    assert lowest("prefix_tuning") == 0
    assert lowest("full", trainable_parameters=["*.layers.2.*"]) == 2
    assert lowest("full", trainable_parameters=["*.layers.2.*", "*embed_tokens*"]) == 0
    assert lowest("lora", layers_to_transform=[2], modules_to_save=["lm_head"]) == 2
    assert lowest("lora", layers_to_transform=[2], trainable_token_indices=[5]) == 0


def test_a_tied_weight_is_in_every_place_that_has_it(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama", tie_word_embeddings=True)
    adapter = create_adapter(base, "full", trainable_parameters=["*.layers.2.*", "*embed_tokens*"])
    _, reason = found(base, adapter)
    assert reason == "the adapter reaches down to the lowest block"


def test_an_adapter_beside_an_earlier_sub_layer_counts_from_where_it_reads(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")
    slots = create_adapter(base, "lora", layers_to_transform=[2]).slots
    next(iter(slots.values())).reads = "model.layers.1.mlp.down_proj"
    assert lowest_block(base.model, base.structure, slots.items()) == 1


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("lora", {}, "the adapter reaches down to the lowest block"),
        ("prompt_tuning", {}, "the adapter reaches down to the lowest block"),
        ("full", {"trainable_parameters": ["lm_head.weight"]}, "the adapter touches none of its blocks"),
    ],
)
def test_adapters_without_a_trunk(
    method: str, options: dict[str, Any], reason: str, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base("llama")
    assert found(base, create_adapter(base, method, **options))[1] == reason


def test_an_encoder_decoder_has_no_trunk(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("t5")
    adapter = create_adapter(base, "lora", r=2, target_modules=["decoder.block.1.layer.0.SelfAttention.q"])
    assert found(base, adapter)[1] == "it is not one stack of blocks"


def test_dropout_below_is_noticed(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("gpt2", resid_pdrop=0.3)
    model = AdaptedModel(base, [adapter := lora_on_top(base, "gpt2")]).train()
    before = torch.get_rng_state()
    reason = find_trunk(base.model, base.structure, adapter.slots.items(), run_of(model, base))
    assert reason == "its lower blocks give something else at each pass, as dropout does"
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_that_share_more_than_hidden_states_are_noticed(tiny_base: Callable[..., Base]) -> None:
    base, noted = tiny_base("llama"), []
    low, _, high = base.model.model.layers
    low.mlp.register_forward_hook(lambda _, __, output: noted.append(output))
    high.register_forward_hook(lambda _, __, output: output + noted[-1])
    assert found(base, lora_on_top(base, "llama"))[1] == "its upper blocks use more than the hidden states of tokens"


def test_blocks_that_look_at_padding_are_noticed(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("bert")
    adapter = lora_on_top(base, "bert")
    assert isinstance(found(base, adapter)[1], Trunk), "attentions do not"
    base = tiny_base("bert")
    top = base.model.bert.encoder.layer[-1]
    top.register_forward_hook(lambda _, __, output: output + output.roll(-1, 1))
    assert found(base, lora_on_top(base, "bert"))[1] == "its upper blocks use more than the hidden states of tokens"


class Wrapped(nn.Module):
    """A block that returns its hidden states in another form."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: Tensor, **options: Any) -> dict[str, Tensor]:
        return {"hidden": self.block(hidden_states, **options)}


def test_blocks_that_return_something_else_are_noticed(tiny_base: Callable[..., Base]) -> None:
    model = tiny_base("llama").model.model
    wrapped = Wrapped(model.layers[0])
    trunk = Trunk([wrapped], model.layers[1])

    def run(others: int) -> tuple[Tensor, Tensor]:
        hidden, tokens = torch.ones(1, 3, 32) + others, torch.ones(1, 3, dtype=torch.bool)
        rope = model.rotary_emb(hidden, torch.arange(3)[None])
        return model.layers[1](wrapped(hidden, position_embeddings=rope)["hidden"], position_embeddings=rope), tokens

    assert trunk.why_not(run, []) == "its blocks do not all return hidden states in one form"


def test_a_touched_module_that_runs_early_is_noticed(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")
    model = base.model
    trunk = Trunk(list(model.model.layers[:2]), model.model.layers[2])
    reason = trunk.why_not(run_of(model, base), [model.model.rotary_emb])
    assert reason == "a LlamaRotaryEmbedding below its blocks is part of the adapter"


def test_a_pass_that_fails_leaves_the_model_as_it_was(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama")
    model, trunk = trunk_of(base, lora_on_top(base, "llama"))
    whole = model(**batch(base))[0]
    with pytest.raises(RuntimeError), trunk.left_out(torch.ones(2, 7, 5)):
        model(**batch(base))
    assert torch.equal(model(**batch(base))[0], whole)
    assert all("forward" not in layer.__dict__ for layer in base.model.model.layers)
