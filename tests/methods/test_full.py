"""Full fine-tuning: which parameters it learns, and from where."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import TargetError


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_learns_every_parameter_once_from_its_value(architecture: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture, dtype=torch.bfloat16)
    adapter = create_adapter(base, "full")
    parameters = dict(base.model.named_parameters())
    assert adapter.slots.keys() == parameters.keys()
    for name, tensor in adapter.tensors().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, parameters[name.removesuffix(".master")].float())


def test_patterns_choose(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    adapter = create_adapter(base, "full", trainable_parameters=("*.layers.2.*", "lm_head.weight"))
    assert all("layers.2." in path or path == "lm_head.weight" for path in adapter.slots)
    assert len(adapter.slots) == 10
    with pytest.raises(TargetError, match=r"'lm_haed\.weight' matches no parameter.*Did you mean 'lm_head\.weight'\?"):
        create_adapter(base, "full", trainable_parameters=("lm_haed.weight",))


def test_trains_like_plain_training(tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]) -> None:
    ids, base, twin = token_ids(3, 10), tiny_base(), tiny_base()
    adapter = create_adapter(base, "full")
    adapter.set_trainable(True)
    twin.model.requires_grad_(True)
    models = (AdaptedModel(base, [adapter]), twin.model)
    optimizers = [torch.optim.SGD(p, lr=0.1) for p in (adapter.parameters(), twin.model.parameters())]
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            logits = model(input_ids=ids).logits
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
    for name, parameter in twin.model.named_parameters():
        assert torch.equal(adapter.tensors()[f"{name}.master"], parameter.detach())


def test_tied_weights_stay_tied(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("gpt2")
    model = AdaptedModel(base, [create_adapter(base, "full")])
    assert "lm_head.weight" not in model.adapter("default").slots
    assert base.model.lm_head.weight is base.model.transformer.wte.weight
    model.detach("default")
    assert base.model.lm_head.weight is base.model.transformer.wte.weight
