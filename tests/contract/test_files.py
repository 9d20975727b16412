"""Contract 3: saved and loaded, merged and unmerged, an adapter is the one that was live."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import ConfigError
from petune.sites.output import OutputSlot

MERGEABLE = [name for name in methods.names() if "output" in methods.get(name).sites]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.no_grad()
def test_saved_and_loaded_agree_with_the_live_adapter(
    architecture: str,
    method: str,
    dtype: torch.dtype,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    trained: Callable[..., AdaptedModel],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    model, ids = trained(tiny_base(architecture, dtype=dtype), method), token_ids(2, 8)
    live = model(input_ids=ids).logits
    folder = save_adapter(model, tmp_path / "adapter")

    base = tiny_base(architecture, dtype=dtype)
    adapter = load_adapter(folder, base, name="again")

    assert not any(p.requires_grad for p in adapter.parameters())
    kept = model.adapter("default").baked()
    assert adapter.config == kept.config
    assert adapter.trained_config == model.adapter("default").config
    assert torch.equal(AdaptedModel(base, [adapter])(input_ids=ids).logits, live)
    if dtype == torch.float32:
        for name, tensor in kept.tensors().items():
            assert torch.equal(adapter.tensors()[name], tensor)


@pytest.mark.parametrize("mergeable", MERGEABLE)
@torch.no_grad()
def test_merged_agrees_with_live_and_unmerges_bit_for_bit(
    base: Base, mergeable: str, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(3, 9)
    bare = base.model(input_ids=ids).logits
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    model = trained(base, mergeable)
    live = model(input_ids=ids).logits
    slots = model.adapter("default").slots.values()
    if any(type(slot).merged_weight is OutputSlot.merged_weight for slot in slots if isinstance(slot, OutputSlot)):
        with pytest.raises(ConfigError, match="cannot be merged"):
            model.merge("default")
        assert torch.equal(model(input_ids=ids).logits, live)
        return

    model.merge("default")
    assert model.active == ()
    torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    model.unmerge("default")

    assert model.active == ("default",)
    assert torch.equal(model(input_ids=ids).logits, live)
    model.merge("default")
    model.detach("default")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert torch.equal(base.model(input_ids=ids).logits, bare)


@torch.no_grad()
def test_folder_of_a_method_that_learns_weights_is_a_plain_model(
    base: Base, tmp_path: Path, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(2, 8)
    for name in methods.names():
        if "weights" not in methods.get(name).sites:
            continue
        model = trained(base, name)
        live = model(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(save_adapter(model, tmp_path / name), dtype=torch.float32)
        torch.testing.assert_close(plain(input_ids=ids).logits, live, rtol=1e-5, atol=1e-5)
        model.detach("default")
