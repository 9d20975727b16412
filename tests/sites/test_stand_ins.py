"""What families that compute attention themselves have in common: their own comes back, gradients are the same."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.sites.attention import AttentionSites, read_keys_values
from petune.sites.attention_switch import IMPLEMENTATION
from petune.sites.routing import Routing
from petune.sites.stand_ins import STAND_INS

FAMILIES = ("bloom", "deberta-v2", "falcon")


def replaced(base: Base) -> list[bool]:
    """Return of each module that has a stand-in whether it stands in now."""
    return [STAND_INS[type(m)][0] in m.__dict__ for m in base.model.modules() if type(m) in STAND_INS]


def test_every_row_is_tried_here(tiny_base: Callable[..., Base]) -> None:
    assert {type(m) for name in FAMILIES for m in tiny_base(name).model.modules()} >= STAND_INS.keys()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_gets_its_own_attention_back(
    family: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(family), token_ids(2, 7)
    before = base.model(input_ids=ids).logits
    model = AdaptedModel(base)
    with model.fast_training():
        assert all(replaced(base))
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)
        with model.route([None, None]):
            pass
        assert all(replaced(base))
    model.attach(create_adapter(base, "prefix_tuning"))
    assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)
    model.detach("default")
    assert torch.equal(base.model(input_ids=ids).logits, before)
    assert not any(replaced(base))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", *FAMILIES])
def test_reading_keys_and_values_leaves_a_plugged_in_adapter_where_it_is(
    family: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(family), token_ids(2, 7)
    paths = tuple(attention.path for attention in base.structure.attentions)
    own, implementation = base.model(input_ids=ids).logits, base.model.config._attn_implementation
    model = AdaptedModel(base)
    with model.fast_inference():
        read_keys_values(base.model, paths, ids[0])
    model.attach(create_adapter(base, "prefix_tuning"))
    expected = model(input_ids=ids).logits
    read_keys_values(base.model, paths, ids[0])
    assert torch.equal(model(input_ids=ids).logits, expected)
    model.detach("default")
    assert torch.equal(base.model(input_ids=ids).logits, own)
    assert not any(replaced(base))
    assert base.model.config._attn_implementation == implementation


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_the_last_of_several_holders_gives_the_attention_back(family: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(family)
    implementation = base.model.config._attn_implementation
    first, second = (AttentionSites(base.model, Routing.of(base.model)).held() for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert all(replaced(base))
    assert base.model.config._attn_implementation == (implementation if family == "bloom" else IMPLEMENTATION)
    second.__exit__(None, None, None)
    assert not any(replaced(base))
    assert base.model.config._attn_implementation == implementation


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_model_s_own_attention(
    family: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    found = []
    for plain in (True, False):
        base, ids = tiny_base(family), token_ids(2, 7)
        adapter = create_adapter(base, "full")
        adapter.set_trainable(True)
        model = AdaptedModel(base, [adapter])
        if plain:
            model(input_ids=ids).logits.logsumexp(-1).sum().backward()
        else:
            with model.fast_training():
                model(input_ids=ids).logits.logsumexp(-1).sum().backward()
        found.append({name: parameter.grad for name, parameter in adapter.named_masters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)
