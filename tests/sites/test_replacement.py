"""Copies of whole modules in place of the base's own."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError, TargetError
from petune.sites.replacement import Replacement


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.Linear(6, 4), torch.randn(2, 3, 6)),
        (nn.Embedding(9, 4, padding_idx=0), torch.tensor([[1, 0, 8]])),
        (nn.LayerNorm(6), torch.randn(2, 6)),
        (nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(2, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_starts_as_the_module_is_and_learns_apart_from_it(
    module: nn.Module, x: torch.Tensor, dtype: torch.dtype
) -> None:
    module = module.to(dtype).requires_grad_(False)
    x = x.to(dtype) if x.is_floating_point() else x
    y = module(x)
    slot = Replacement(module)
    assert torch.equal(slot(x, y), y)
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in slot.parameters())

    slot(x, y).float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in slot.parameters())
    with torch.no_grad():
        for parameter in slot.parameters():
            parameter.add_(1)
    assert not torch.equal(slot(x, y), y)
    assert torch.equal(module(x), y)


def test_what_is_plugged_into_the_original_is_not_copied(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [create_adapter(base, "lora", name="first", target_modules="lm_head")])
    slot = Replacement(base.model.lm_head)
    assert not slot.own._forward_hooks
    assert sum(p.numel() for p in slot.parameters()) == base.model.lm_head.weight.numel()
    assert model.plugged_into(base.model.lm_head)


def test_a_copy_of_a_tied_head_leaves_the_embeddings_alone(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base("gpt2"), token_ids(1, 5)
    assert base.model.lm_head.weight is base.model.transformer.wte.weight
    adapter = create_adapter(base, target_modules="c_attn", modules_to_save=("lm_head",))
    model = AdaptedModel(base, [adapter])
    with torch.no_grad():
        hidden = base.model.transformer(ids).last_hidden_state
        adapter.replacements["lm_head"].own.weight.add_(torch.randn(288, 32))
        expected = hidden @ adapter.replacements["lm_head"].own.weight.t()
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
    with pytest.raises(ConfigError, match=r"'lm_head' shares its weight with transformer\.wte\.weight"):
        model.merge("default")


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("lm_heat",), TargetError, r"'lm_heat' matches no module of this base\. Did you mean 'lm_head'\?"),
        (("layers",), ConfigError, "'model.layers' is more than one layer"),
        (("model",), ConfigError, "'model' is more than one layer"),
        (("self_attn",), ConfigError, r"'model\.layers\.0\.self_attn' is more than one layer"),
        (("rotary_emb",), ConfigError, "'model.rotary_emb' has no parameters to learn"),
        (("mlp", "up_proj"), ConfigError, r"up_proj' lies inside 'model\.layers\.0\.mlp'"),
    ],
    ids=str,
)
def test_what_cannot_be_copied_is_refused(
    tiny_base: Callable[..., Base], names: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"modules_to_save: .*{message}"):
        create_adapter(tiny_base(), modules_to_save=names)


def test_state_besides_parameters_is_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    base.model.extra = nn.BatchNorm1d(3)
    with pytest.raises(ConfigError, match=r"'extra' holds more than floating-point parameters \(num_batches_tracked"):
        create_adapter(base, modules_to_save=("extra",))
