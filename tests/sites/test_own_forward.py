"""What the families with a row of their own have in common: the model's own attention comes and goes."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.sites.own_forward import OWN_FORWARD

FAMILIES = {"bloom": "BloomAttention", "deberta-v2": "DisentangledSelfAttention", "falcon": "FalconAttention"}


def test_every_row_is_tried_here() -> None:
    assert sorted(kind.__name__ for kind in OWN_FORWARD) == sorted(FAMILIES.values())


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_gets_its_own_attention_back(
    family: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(family), token_ids(2, 7)
    before = base.model(input_ids=ids).logits
    changed = [module for module in base.model.modules() if type(module) in OWN_FORWARD]
    model = AdaptedModel(base)
    with model.fast_training():
        assert all("forward" in module.__dict__ for module in changed)
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-5)
        with model.route([None, None]):
            pass
        assert all("forward" in module.__dict__ for module in changed)
    model.attach(create_adapter(base, "prefix_tuning"))
    assert not torch.allclose(model(input_ids=ids).logits, before, atol=1e-3)
    model.detach("default")
    assert torch.equal(base.model(input_ids=ids).logits, before)
    assert all("forward" not in module.__dict__ for module in base.model.modules())


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
