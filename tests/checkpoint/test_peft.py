"""PEFT's spelling of settings and tensors; what it computes is compared in the contract."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.made_for import base_of
from petune.checkpoint.manifest import FILE_NAME
from petune.compat import peft as compat
from petune.errors import AdapterFormatError


def written(folder: Path, base: Base, **options: Any) -> dict[str, Any]:
    save_adapter(AdaptedModel(base, [create_adapter(base, "lora", **options)]), folder)
    content: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return content


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": "attention"}, ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ({"target_modules": ("q_proj", "up_proj")}, ["q_proj", "up_proj"]),
        (
            {"target_modules": ("q_proj",), "layers_to_transform": (0, 2)},
            ["model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"],
        ),
        ({"target_modules": "attention", "exclude_modules": ("o_proj",)}, ["k_proj", "q_proj", "v_proj"]),
    ],
    ids=str,
)
def test_targets_are_written_as_names_where_names_say_it(
    tiny_base: Callable[..., Base], tmp_path: Path, options: dict[str, Any], expected: list[str]
) -> None:
    content = written(tmp_path, tiny_base(), **options)
    assert content["target_modules"] == expected
    assert content["layers_to_transform"] is None
    assert content["exclude_modules"] is None


def test_config_says_what_peft_needs(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    content = written(tmp_path, tiny_base("gpt2"), r=3, lora_alpha=12, lora_dropout=0.1, use_rslora=True)
    expected = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny-gpt2", "r": 3,
        "lora_alpha": 12, "lora_dropout": 0.1, "use_rslora": True, "fan_in_fan_out": True, "bias": "none",
        "inference_mode": True, "modules_to_save": None, "revision": None,
    }  # fmt: skip
    assert {key: content[key] for key in expected} == expected
    assert isinstance(content["lora_alpha"], int)
    assert written(tmp_path / "b", tiny_base(), lora_alpha=0.5)["lora_alpha"] == 0.5


def test_patterns_keep_their_order(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    # The first that fits counts, there as here.
    patterns = {"q_proj": 64, ".*": 8}
    content = written(tmp_path, tiny_base(), target_modules="attention", alpha_pattern=patterns)
    assert list(content["alpha_pattern"].items()) == list(patterns.items())
    assert list(content) == sorted(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 10**9}, "'r' is 1000000000"),
        ({"r": 0}, "'r' is 0"),
        ({"r": "many"}, "'r' is 'many'"),
        ({"lora_alpha": 1e300}, "'lora_alpha'"),
        ({"lora_alpha": float("nan")}, "'lora_alpha'"),
        ({"lora_dropout": 1.0}, "'lora_dropout'"),
        ({"target_modules": None}, "'target_modules' is missing"),
        ({"target_modules": ["no_such"]}, "'no_such' matches no linear"),
        ({"target_modules": "(a+)+" * 20 + "b"}, "pattern"),
        ({"target_modules": r"(.*)*(.*)*(.*)*(.*)*x\d"}, "pattern"),
        ({"target_modules": 7}, "'target_modules"),
        ({"layers_to_transform": [99]}, "layer 99 does not exist"),
    ],
    ids=str,
)
def test_absurd_settings_are_refused_by_name(
    tiny_base: Callable[..., Base], saved: Path, changes: dict[str, Any], message: str
) -> None:
    (saved / FILE_NAME).unlink()
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(saved, tiny_base())


def test_rank_and_scale_that_a_file_lacks_are_those_of_peft(tiny_base: Callable[..., Base], saved: Path) -> None:
    (saved / FILE_NAME).unlink()
    path = saved / "adapter_config.json"
    content = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("r", "lora_alpha")}
    path.write_text(json.dumps(content))
    with pytest.raises(AdapterFormatError, match=r"has shape \[4, 32\], expected \[8, 32\]"):
        load_adapter(saved, tiny_base())
    path.write_text(json.dumps({**content, "r": 4}))
    assert load_adapter(saved, tiny_base()).config.model_dump()["lora_alpha"] == 8


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "lm_head.bias",
            torch.zeros(8),
            "'base_model.model.lm_head.bias' is there, and the base has no such parameter",
        ),
        ("lm_head.weight", torch.zeros(8, 8, dtype=torch.int64), "'base_model.model.lm_head.weight' holds torch.int64"),
    ],
)
def test_tables_that_are_none_of_the_base_are_refused(
    tiny_base: Callable[..., Base], saved: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    (saved / FILE_NAME).unlink()
    path = saved / "adapter_model.safetensors"
    save_file({**load_file(path), f"base_model.model.{name}": tensor}, path)
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(saved, tiny_base())


@pytest.mark.filterwarnings(
    "ignore:Could not find a config file:UserWarning",
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
)
@torch.no_grad()
def test_linears_that_peft_takes_for_experts_are_kept_from_it(
    tiny_base: Callable[..., Base],
    tmp_path: Path,
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    # The first block of this base has a feed-forward layer whose linears are called as those of experts were.
    base, ids = tiny_base("deepseek_v3"), token_ids(2, 6)
    for name, targets in (("attention", "attention"), ("all", "all-linear")):
        model = AdaptedModel(base, [randomise(create_adapter(base, "lora", target_modules=targets))])
        folder, live = save_adapter(model, tmp_path / name), model(input_ids=ids).logits
        model.detach("default")
        if targets == "attention":
            theirs = peft.PeftModel.from_pretrained(tiny_base("deepseek_v3").model, folder).eval()
            torch.testing.assert_close(theirs(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
        else:
            assert not (folder / "adapter_config.json").exists()
        fresh = tiny_base("deepseek_v3")
        again = AdaptedModel(fresh, [load_adapter(folder, fresh)])
        torch.testing.assert_close(again(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


def test_a_config_without_a_base_asks_for_one(saved: Path) -> None:
    (saved / FILE_NAME).unlink()
    path = saved / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "revision": "abc"}))
    assert base_of(saved) == ("tiny-llama", "abc")
    path.write_text(json.dumps({**content, "base_model_name_or_path": None}))
    with pytest.raises(AdapterFormatError, match="names no base model; give it with --model"):
        base_of(saved)


@pytest.mark.filterwarnings(
    "ignore:Could not find a config file:UserWarning",
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
)
@pytest.mark.parametrize(("architecture", "query"), [("bart", "q_proj"), ("t5", "q")])
@pytest.mark.parametrize("layers", [0, [1], [0, 1]], ids=str)
def test_layers_of_encoder_and_decoder_are_counted_apart(
    architecture: str, query: str, layers: int | list[int], tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    settings = {"target_modules": [query], "layers_to_transform": layers}
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, **settings)
    theirs = peft.get_peft_model(tiny_base(architecture).model, config)
    theirs.save_pretrained(tmp_path)
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in theirs.named_parameters()
        if "lora_A" in name
    }
    assert len(adapted) == (6 if layers == [0, 1] else 3)
    assert load_adapter(tmp_path, tiny_base(architecture)).slots.keys() == adapted
    ours = compat.get_peft_model(
        tiny_base(architecture).model, compat.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, **settings)
    )
    assert ours.base_model.adapters["default"].slots.keys() == adapted
