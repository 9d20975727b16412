"""IA3: the formula, where it goes, merging, PEFT's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import AdapterFormatError, ConfigError, TargetError
from petune.methods.ia3 import IA3Slot

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]

TARGETS = {
    "llama": {"self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"},
    "gpt2": {"attn.c_attn", "mlp.c_proj"},
    "gpt_neox": {"attention.query_key_value", "mlp.dense_4h_to_h"},
}


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(2, 8)


@pytest.mark.parametrize("architecture", TARGETS)
@torch.no_grad()
def test_output_is_the_formula_of_the_paper(
    architecture: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], ids: torch.Tensor
) -> None:
    base = tiny_base(architecture)
    adapter = randomise(create_adapter(base, "ia3"), scale=0.5)
    blocks = base.structure.blocks
    assert set(adapter.slots) == {f"{block}.{name}" for block in blocks for name in TARGETS[architecture]}
    ours = AdaptedModel(base, [adapter])(input_ids=ids).logits

    model = tiny_base(architecture).model

    def scale_output(factor: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda module, inputs, output: factor * output

    def scale_input(factor: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda module, inputs: factor * inputs[0]

    for name, factor in adapter.tensors().items():
        module: nn.Module = model.get_submodule(name.removesuffix(".factor"))
        if ".mlp." in name:
            module.register_forward_pre_hook(scale_input(factor))
        else:
            module.register_forward_hook(scale_output(factor))
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_merged_weights_and_biases_equal_the_slot() -> None:
    generator = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(4, 3), torch.randn(5, 4, generator=generator)
    for feedforward, width in ((False, 3), (True, 4)):
        slot = IA3Slot(width, feedforward=feedforward)
        slot.factor.data = torch.randn(width, generator=generator)
        live = slot(x, linear(slot.enter(x) if feedforward else x))
        merged = nn.functional.linear(x, slot.merged_weight(linear.weight), slot.merged_bias(linear.bias))
        torch.testing.assert_close(live, merged)


@pytest.mark.parametrize("order", [("lora", "ia3"), ("ia3", "lora")])
@torch.no_grad()
def test_a_stack_merges_in_its_order(
    order: tuple[str, str], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], ids: torch.Tensor
) -> None:
    base = tiny_base()
    made = [randomise(create_adapter(base, name, name=name), scale=0.3) for name in ("lora", "ia3")]
    model = AdaptedModel(base, made)
    model.activate(*order)
    live = model(input_ids=ids).logits
    model.activate(*reversed(order))
    assert not torch.allclose(model(input_ids=ids).logits, live, atol=1e-2)
    model.activate(*order)
    for name in order:
        model.merge(name)
        torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "outputs": {"target_modules": "attention"},
    "everything": {"target_modules": "all-linear"},
    "inputs": {"target_modules": "mlp", "feedforward_modules": "all-linear"},
    "none": {"target_modules": "all-linear", "feedforward_modules": ()},
}


@pytest.mark.parametrize("architecture", TARGETS)
@pytest.mark.parametrize("settings", SETTINGS)
@torch.no_grad()
def test_peft_reads_what_we_write_and_we_read_what_it_writes(
    architecture: str,
    settings: str,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    ids: torch.Tensor,
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, "ia3", **SETTINGS[settings]))])
    ours = model(input_ids=ids).logits
    save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(tmp_path / "ours")).eval()
    torch.testing.assert_close(theirs(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    base = tiny_base(architecture)
    again = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    assert torch.equal(again(input_ids=ids).logits, ours)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedforward_modules": None}, "'feedforward_modules' is missing"),
        ({"target_modules": None}, "'target_modules' is missing"),
        ({"modules_to_save": ["no_such"]}, r"modules_to_save=\['no_such'\] matches no module of this base"),
        ({"a_field_of_the_future": 1}, "'a_field_of_the_future' is not known"),
        ({"target_modules": ["nothing"]}, "'nothing' matches no linear"),
    ],
    ids=str,
)
def test_configs_we_cannot_follow(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(tiny_base().model, config).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(tmp_path, tiny_base())


def test_files_of_another_kind(tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(tiny_base().model, config).save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: torch.ones(2, 3) for name in load_file(path)}, path)
    with pytest.raises(AdapterFormatError, match=r"ia3_l' \[2, 3\] is not of IA3, whose tensors are called"):
        load_adapter(tmp_path, tiny_base())


def test_inputs_of_linears_that_are_not_chosen(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match="feedforward_modules is 'mlp', but none of these is among target_modules"):
        create_adapter(tiny_base(), "ia3", target_modules="attention", feedforward_modules="mlp")


def test_a_mixture_of_experts_has_no_linears_of_the_paper(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("llama4_text")
    with pytest.raises(TargetError, match="holds experts, of which each token goes through some"):
        create_adapter(base, "ia3")
    assert len(create_adapter(base, "ia3", target_modules=("k_proj", "v_proj")).slots) == 2 * base.structure.num_blocks
