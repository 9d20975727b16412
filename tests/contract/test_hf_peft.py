"""Contract 8: HF PEFT reads what we write, and we read what it writes."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.made_for import base_of
from petune.checkpoint.peft import LAYOUTS
from petune.errors import AdapterFormatError

# PEFT calls a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

# Settings of PEFT's LoRA by what they are about; names of modules are filled in for each architecture.
SETTINGS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "defaults": lambda _: {"target_modules": "all-linear"},
    "rank-alpha-dropout": lambda n: {
        "r": 3, "lora_alpha": 5, "lora_dropout": 0.3, "target_modules": [n["q"], n["up"]],
    },
    "rslora": lambda n: {"r": 4, "lora_alpha": 7, "use_rslora": True, "target_modules": [n["q"]]},
    "regex": lambda n: {"target_modules": rf".*\.1\..*{n['up']}"},
    "layers": lambda n: {"target_modules": [n["q"]], "layers_to_transform": [1]},
    "one-layer": lambda n: {"target_modules": [n["q"]], "layers_to_transform": 0},
    "exclude-list": lambda n: {"target_modules": "all-linear", "exclude_modules": [n["up"]]},
    "exclude-regex": lambda n: {"target_modules": "all-linear", "exclude_modules": rf".*\.0\..*{n['up']}"},
    "exclude-nothing": lambda n: {"target_modules": [n["q"], n["up"]], "exclude_modules": ".*vision.*"},
    "exclude-name-as-pattern": lambda n: {"target_modules": [n["q"], n["up"]], "exclude_modules": n["up"]},
    "names-of-other-models": lambda n: {"target_modules": [n["q"], "W_pack", "query"]},
    "gaussian": lambda n: {"target_modules": [n["q"]], "init_lora_weights": "gaussian"},
    "dora": lambda n: {"target_modules": [n["q"], n["up"]], "use_dora": True, "use_rslora": True},
    "embeddings": lambda n: {"target_modules": [n["q"], n["table"]]},
    "embeddings-regex": lambda n: {"target_modules": rf".*{n['table']}|.*{n['q']}"},
    "embeddings-dora": lambda n: {"target_modules": [n["table"]], "use_dora": True},
    "head": lambda n: {"target_modules": [n["q"], "lm_head"]},
    "ranks": lambda n: {
        "target_modules": [n["q"], n["up"], n["table"]],
        "rank_pattern": {rf".*\.1\..*{n['up']}": 3, n["up"]: 5, "no_such": 2},
        "alpha_pattern": {n["table"]: 3, rf"^.*\.0\..*{n['up']}": 20},
    },
    "list-of-layers": lambda n: {"target_modules": [n["q"]], "layers_to_transform": [1], "layers_pattern": n["list"]},
    "lists-of-layers": lambda n: {
        "target_modules": [n["q"], n["up"]], "layers_to_transform": [0], "layers_pattern": ["x", n["list"]],
    },
    "whole": lambda n: {"target_modules": [n["q"], n["table"]], "modules_to_save": ["lm_head", n["norm"], "score"]},
    "whole-and-adapted": lambda n: {"target_modules": [n["q"], n["up"]], "modules_to_save": [n["up"]]},
}  # fmt: skip
NAMES = {
    "llama": {"q": "q_proj", "up": "up_proj", "table": "embed_tokens", "list": "layers", "norm": "model.norm"},
    "gpt2": {"q": "c_attn", "up": "c_fc", "table": "wte", "list": "h", "norm": "ln_f"},
    "gpt_neox": {
        "q": "query_key_value", "up": "dense_h_to_4h", "table": "embed_in", "list": "layers",
        "norm": "final_layer_norm",
    },
}  # fmt: skip
# PEFT says that it writes embeddings and that a tied one is adapted apart, and looks for the base on the hub.
TALK = [
    "ignore:Setting .save_embedding_layers.:UserWarning",
    "ignore:Could not find a config file:UserWarning",
    "ignore:You have passed exclude_modules:UserWarning",
    "ignore:Model has .tie_word_embeddings=True.:UserWarning",
    "ignore:Model with .tie_word_embeddings=True.:UserWarning",
    "ignore:fan_in_fan_out is set to True but:UserWarning",
    "ignore:The following .*_pattern keys did not match:RuntimeWarning",
]


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(2, 8)


def saved_by_peft(base: Base, folder: Path, **settings: Any) -> peft.PeftModel:
    torch.manual_seed(3)
    transposed = any(linear.transposed for linear in base.structure.linears)
    config = peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=transposed, **settings)
    model = peft.get_peft_model(base.model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_B", "lora_embedding_A", "modules_to_save")):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "magnitude" in name:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def test_every_layout_belongs_to_a_method() -> None:
    assert LAYOUTS.keys() <= set(methods.names())
    assert "lora" in LAYOUTS


OURS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "all-linear": lambda _: {"use_rslora": True},
    "attention": lambda _: {"target_modules": "attention"},
    "pattern": lambda n: {"target_modules": rf".*\.0\..*{n['up']}"},  # leaf names alone would say more
    "dora": lambda n: {"target_modules": (n["q"], n["table"]), "use_dora": True},
    "ranks": lambda n: {
        "target_modules": (n["q"], n["up"], n["table"], "lm_head"),
        "rank_pattern": {rf"1\..*{n['up']}": 2}, "alpha_pattern": {"lm_head": 2.5, n["q"]: 3},
    },
    "pissa": lambda n: {"init_lora_weights": "pissa", "target_modules": (n["q"], n["up"])},
    "layers": lambda n: {"target_modules": n["q"], "layers_to_transform": (1,), "layers_pattern": n["list"]},
}  # fmt: skip


@pytest.mark.filterwarnings(*TALK)
@pytest.mark.parametrize("setting", OURS)
@torch.no_grad()
def test_peft_loads_our_folder(
    base: Base,
    architecture: str,
    setting: str,
    ids: torch.Tensor,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    trained: Callable[..., AdaptedModel],
) -> None:
    model = trained(base, "lora", **{"r": 5, "lora_alpha": 11.0, **OURS[setting](NAMES[architecture])})
    live = model(input_ids=ids).logits
    folder = save_adapter(model, tmp_path / "ours")

    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, folder).eval()

    assert theirs.active_peft_config.r == (10 if setting == "pissa" else 5)
    torch.testing.assert_close(theirs(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings(*TALK)
@pytest.mark.parametrize("setting", SETTINGS)
@torch.no_grad()
def test_we_load_what_peft_saved(
    base: Base,
    architecture: str,
    setting: str,
    ids: torch.Tensor,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = saved_by_peft(base, tmp_path, **SETTINGS[setting](NAMES[architecture]))
    expected = theirs(input_ids=ids).logits

    fresh = tiny_base(architecture)
    with caplog.at_level(logging.WARNING, logger="petune"):
        adapter = load_adapter(tmp_path, fresh)

    assert "its base is unverified" in caplog.text
    in_file = [name for name in load_file(tmp_path / "adapter_model.safetensors") if "base_layer" not in name]
    assert len(adapter.tensors()) == len(in_file)
    torch.testing.assert_close(AdaptedModel(fresh, [adapter])(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_loaded_from_peft_and_saved_again_is_the_same(
    tiny_base: Callable[..., Base], ids: torch.Tensor, tmp_path: Path
) -> None:
    saved_by_peft(tiny_base(), tmp_path / "theirs", r=4, target_modules=["q_proj", "v_proj"])
    base = tiny_base()
    model = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    save_adapter(model, tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / f / "adapter_model.safetensors") for f in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert base_of(tmp_path / "ours") == ("tiny-llama", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["no_such"]),
        ("modules_to_save", "lm_head"),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("rank_pattern", {"q_proj": "four"}),
        ("alpha_pattern", {"q_proj(": 4}),
        ("ensure_weight_tying", True),
        ("lora_bias", True),
        ("use_qalora", True),
        ("layer_replication", [[0, 1], [1, 2]]),
        ("trainable_token_indices", [10**6]),
        ("trainable_token_indices", {"q_proj": [1]}),
        ("target_parameters", ["mlp.weight"]),
        ("layers_pattern", ["h"]),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("loftq_config", {"loftq_bits": 4}),
        ("a_field_of_the_future", 1),
    ],
)
def test_fields_that_we_do_not_compute_are_refused_by_name(
    tiny_base: Callable[..., Base], tmp_path: Path, field: str, value: object
) -> None:
    base = tiny_base()
    saved_by_peft(tiny_base(), tmp_path, target_modules=["q_proj"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(AdapterFormatError, match=field):
        load_adapter(tmp_path, base)


@pytest.mark.filterwarnings(*TALK)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: table + 1e-3,
            r"embed_tokens.base_layer.weight' is not the base's own table; .* modules_to_save",
        ),
        (lambda table: table[:-1], r"has shape \[287, 32\], the base has \[288, 32\]: .* vocabulary was resized"),
    ],
    ids=["trained", "resized"],
)
def test_a_table_that_is_not_the_base_s_is_refused(
    tiny_base: Callable[..., Base],
    tmp_path: Path,
    change: Callable[[torch.Tensor], torch.Tensor],
    message: str,
) -> None:
    saved_by_peft(tiny_base(), tmp_path, target_modules=["embed_tokens"])
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    save_file(tensors | {name: tensors[name].to(torch.bfloat16)}, path)
    load_adapter(tmp_path, tiny_base(dtype=torch.bfloat16))
    save_file(tensors | {name: change(tensors[name])}, path)
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(tmp_path, tiny_base())


@pytest.mark.parametrize("peft_type", ["VERA", None, ["LORA"], 7])
def test_other_types_are_refused(tiny_base: Callable[..., Base], tmp_path: Path, peft_type: object) -> None:
    saved_by_peft(tiny_base(), tmp_path, target_modules=["q_proj"])
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": peft_type}))
    with pytest.raises(AdapterFormatError, match=r"peft_type is .*; petune reads .*LORA"):
        load_adapter(tmp_path, tiny_base())
