"""Where sub-layers join the residual stream: told by measuring, and refused where they join in another way."""

from collections.abc import Callable

import pytest
import torch

from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.backbone.sublayers import sub_layers
from petune.errors import TargetError
from petune.sites.residual import Joint, joints

# What the attention and the feed-forward layer of the last block are added to, and the norm behind the sum.
EXPECTED: dict[str, tuple[Joint, ...]] = {
    "llama": (Joint("input_layernorm", None), Joint("post_attention_layernorm", None)),
    "gpt2": (Joint("ln_1", None), Joint("ln_2", None)),
    "t5": (Joint("layer.0.layer_norm", None), Joint("layer.1.layer_norm", None), Joint("layer.2.layer_norm", None)),
    "bert": (
        Joint("attention.self.query", "attention.output.LayerNorm"),
        Joint("intermediate.dense", "output.LayerNorm"),
    ),
    "bart": (
        Joint("self_attn.q_proj", "self_attn_layer_norm"),
        Joint("encoder_attn.q_proj", "encoder_attn_layer_norm"),
        Joint("fc1", "final_layer_norm"),
    ),
}


def found_in(base: Base) -> dict[str, Joint]:
    return joints(base.model, base.structure, sub_layers(base.model, base.structure))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", EXPECTED)
def test_joints_are_told(architecture: str, dtype: torch.dtype, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture, dtype=dtype)
    found = found_in(base)
    block = f"{base.structure.blocks[-1]}."
    assert len(found) == len(sub_layers(base.model, base.structure))
    shown = [
        Joint(joint.reads.removeprefix(block), None if joint.norm is None else joint.norm.removeprefix(block))
        for path, joint in found.items()
        if path.startswith(block)
    ]
    assert sorted(map(str, shown)) == sorted(map(str, EXPECTED[architecture]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.model.modules())


@pytest.mark.parametrize("architecture", ["gpt_neox", "gemma2", "gemma4_text"])
def test_other_ways_are_refused(architecture: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(TargetError, match=r"joins the residual stream in a way of its own: .*adapter_input=sub_layer"):
        found_in(tiny_base(architecture))


def test_nothing_is_measured_on_the_meta_device(tiny_base: Callable[..., Base]) -> None:
    model = tiny_base().model.to("meta")
    structure = Structure(model)
    assert len(joints(model, structure, sub_layers(model, structure))) == 2 * structure.num_blocks


def test_a_first_block_without_a_norm_is_of_the_kind_of_the_others(tiny_base: Callable[..., Base]) -> None:
    found = found_in(tiny_base("modernbert"))
    assert len(found) == 4
    assert found["model.layers.0.attn.Wo"] == Joint("model.layers.0.attn.Wqkv", None)
    assert all(joint.norm is None for joint in found.values())
