"""Several adapters on the same rows: what applying each by hand gives, in the order stated, and what cannot be."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache, SwitchTransformersConfig, SwitchTransformersForConditionalGeneration

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError

Made = Callable[..., Adapter]


@pytest.fixture
def made(randomise: Callable[..., Adapter]) -> Made:
    """Make an adapter with values as if trained: ``made(base, "a", "lora", r=4)``."""

    def make(base: Base, name: str, method: str, **options: object) -> Adapter:
        return randomise(create_adapter(base, method, name=name, **options), seed=ord(name[0]))

    return make


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(2, 6)


def stacked(base: Base, *adapters: Adapter) -> AdaptedModel:
    model = AdaptedModel(base, adapters)
    model.activate(*(adapter.name for adapter in adapters))
    return model


@torch.no_grad()
def with_lora(base: Base, adapter: Adapter) -> Base:
    """Return ``base`` with the update of a LoRA of rank 8 and alpha 16 added to its weights by hand."""
    for path in adapter.slots:
        a, b = (adapter.tensors()[f"{path}.lora_{letter}"] for letter in "AB")
        base.model.get_parameter(f"{path}.weight").add_(16 / 8 * b @ a)
    return base


@pytest.mark.parametrize("order", ["al", "la"])
@torch.no_grad()
def test_a_lora_and_a_prompt_are_a_prompt_in_front_of_the_updated_model(
    order: str, tiny_base: Callable[..., Base], made: Made, ids: torch.Tensor
) -> None:
    base = tiny_base()
    lora, prompt = made(base, "l", "lora"), made(base, "a", "prompt_tuning", num_virtual_tokens=3)
    model = stacked(base, *({"l": lora, "a": prompt}[name] for name in order))
    ours = model(input_ids=ids).logits
    assert model.virtual_tokens == 3

    updated = with_lora(tiny_base(), lora).model
    front = prompt.tensors()["source.prompt_embeddings"].expand(2, -1, -1)
    rows = torch.cat([front, updated.get_input_embeddings()(ids)], 1)
    torch.testing.assert_close(ours, updated(inputs_embeds=rows).logits[:, 3:], rtol=1e-4, atol=1e-4)
    model.activate("a")
    assert not torch.allclose(model(input_ids=ids).logits, ours, atol=1e-2)


@torch.no_grad()
def test_a_lora_and_a_prefix_are_keys_and_values_in_front_of_the_updated_model(
    tiny_base: Callable[..., Base], made: Made, ids: torch.Tensor
) -> None:
    base = tiny_base()
    lora, prefix = made(base, "l", "lora"), made(base, "p", "prefix_tuning", num_virtual_tokens=3)
    ours = stacked(base, lora, prefix)(input_ids=ids).logits
    cache = DynamicCache()
    for layer, attention in enumerate(base.structure.attentions):
        cache.update(
            *(prefix.tensors()[f"{attention.path}.{n}"].expand(2, -1, -1, -1) for n in ("keys", "values")), layer
        )
    expected = with_lora(tiny_base(), lora).model(input_ids=ids, past_key_values=cache).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_two_loras_are_the_sum_of_their_updates(tiny_base: Callable[..., Base], made: Made, ids: torch.Tensor) -> None:
    base = tiny_base()
    first, second = made(base, "f", "lora", target_modules="attention"), made(base, "s", "lora")
    ours = stacked(base, first, second)(input_ids=ids).logits
    expected = with_lora(with_lora(tiny_base(), first), second).model(input_ids=ids).logits
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_first_is_nearest_to_the_base(tiny_base: Callable[..., Base], made: Made, ids: torch.Tensor) -> None:
    base = tiny_base()
    lora = made(base, "l", "lora", target_modules="down_proj")
    network = made(base, "n", "bottleneck", placement="pfeiffer", train_layer_norms=False, bottleneck_size=5)
    model = stacked(base, lora, network)
    after = model(input_ids=ids).logits  # the network reads the updated output
    model.activate("n", "l")
    before = model(input_ids=ids).logits  # the update is added to what the network gives

    def expected(*, network_reads_update: bool) -> torch.Tensor:
        plain = tiny_base().model

        def change(path: str) -> Callable[..., torch.Tensor]:
            a, b = (lora.tensors()[f"{path}.lora_{letter}"] for letter in "AB")
            p = dict(network.slots[path].named_parameters())

            def hook(module: object, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
                update = 2 * F.linear(F.linear(inputs[0], a), b)
                z = y + update if network_reads_update else y
                return (
                    y + update + F.gelu(z @ p["down_weight"].t() + p["down_bias"]) @ p["up_weight"].t() + p["up_bias"]
                )

            return hook

        for path in lora.slots:
            plain.get_submodule(path).register_forward_hook(change(path))
        return plain(input_ids=ids).logits

    torch.testing.assert_close(after, expected(network_reads_update=True), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(before, expected(network_reads_update=False), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)


def test_an_adapter_is_named_once(tiny_base: Callable[..., Base], made: Made) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [made(base, "a", "lora")])
    with pytest.raises(ConfigError, match="'a' is named twice in one stack; name it once"):
        model.activate("a", "a")
    with pytest.raises(ConfigError, match="'a' is named twice"), model.route([None, ["a", "a"]]):
        pass
    assert model.active == ("a",)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            {"modules_to_save": ("lm_head",)},
            {"modules_to_save": ("lm_head",)},
            "'a' and 'b' both learn 'lm_head' whole",
        ),
        (
            {"target_modules": ("lm_head",)},
            {"modules_to_save": ("lm_head",)},
            "would undo what 'a' .*; put 'b' before 'a'",
        ),
        (
            {"trainable_token_indices": (4, 9)},
            {"trainable_token_indices": (9, 5)},
            r"learn the rows of tokens \[9\] of",
        ),
    ],
)
def test_adapters_that_would_undo_one_another_are_refused(
    first: dict[str, object], second: dict[str, object], message: str, tiny_base: Callable[..., Base], made: Made
) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [made(base, "a", "lora", **first), made(base, "b", "lora", **second)])
    with pytest.raises(ConfigError, match=message):
        model.activate("a", "b")
    with pytest.raises(ConfigError, match=message), model.route([None, ["a", "b"]]):
        pass
    if "put" in message:
        model.activate("b", "a")
        assert model.active == ("b", "a")
    with model.route(["a", "b"]):  # each on rows of its own
        pass


def test_what_is_adapted_inside_a_copy_would_do_nothing(tiny_base: Callable[..., Base], made: Made) -> None:
    base = tiny_base("roberta", task="sequence_classification", labels=("no", "yes"))
    whole = made(base, "w", "lora", target_modules="attention")  # its head is a copy of the classifier
    with pytest.raises(ConfigError, match="'w' and 'v' both learn 'classifier' whole"):
        stacked(base, whole, made(base, "v", "prompt_tuning", num_virtual_tokens=2))


@torch.no_grad()
def test_unmerging_brings_any_order_back(tiny_base: Callable[..., Base], made: Made, ids: torch.Tensor) -> None:
    base = tiny_base()
    first = made(base, "f", "lora", modules_to_save=("lm_head",))
    second = made(base, "s", "lora", target_modules=("lm_head", "q_proj"))
    model = stacked(base, first, second)
    expected = model(input_ids=ids).logits
    model.merge("f")
    model.merge("s")
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    model.unmerge("s")
    model.unmerge("f")
    model.activate("f", "s")
    torch.testing.assert_close(model(input_ids=ids).logits, expected)


def test_rows_cannot_be_told_apart_inside_experts(made: Made, token_ids: Callable[..., torch.Tensor]) -> None:
    sizes = {"d_model": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48}
    sparse = {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    config = SwitchTransformersConfig(**sizes, **sparse, vocab_size=64, dropout_rate=0.0, decoder_start_token_id=0)
    base = Base.from_model(SwitchTransformersForConditionalGeneration(config), None)
    a, b = (made(base, name, "lora", target_modules=r".*experts.*wi") for name in "ab")
    outside = made(base, "c", "lora", target_modules="attention")
    model = AdaptedModel(base, [a, b, outside])
    ids = token_ids(2, 4) % 64
    for rows in (["a", "b"], ["a", None], ["c", ("c", "a")]):
        with pytest.raises(ConfigError, match=r"'a' adapts '.*wi', one of the experts in '.*\.experts', .* exclude_"):
            model.route(rows)
    for rows in (["a", "a"], ["c", None]):
        with model.route(rows), torch.no_grad():
            assert model(input_ids=ids, decoder_input_ids=ids).logits.isfinite().all()


@pytest.mark.parametrize(
    ("architecture", "first", "options"),
    [
        ("gpt2", "ia3", {}),
        ("bert", "bitfit", {}),
        ("qwen2", "lora", {"use_dora": True}),
        ("bert", "bitfit", {"modules_to_save": ("query",), "bias_modules": ("*.key",)}),
    ],
    ids=["ia3", "bitfit", "dora", "whole"],
)
@torch.no_grad()
def test_lengths_are_learned_without_the_bias_of_those_before(
    architecture: str,
    first: str,
    options: dict[str, object],
    tiny_base: Callable[..., Base],
    made: Made,
    ids: torch.Tensor,
) -> None:
    base = tiny_base(architecture)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in base.model.named_parameters():
        if name.endswith("bias"):
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    one = made(base, "one", first, **options)
    model = stacked(base, one, made(base, "two", "lora", use_dora=True, target_modules="attention"))
    expected = model(input_ids=ids).logits
    model.merge("one")
    model.merge("two")
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
