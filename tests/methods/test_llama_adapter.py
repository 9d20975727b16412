"""LLaMA-Adapter: the formula on several architectures, its start and sizes, stacks, PEFT's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, build_adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import AdapterFormatError, TargetError
from petune.sites.sites import Sites

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SIZES: dict[str, dict[str, Any]] = {
    "llama": {**PLAIN, "num_key_value_heads": 2},
    "qwen3": {**PLAIN, "num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neox": PLAIN,
    "phi3": {**PLAIN, "num_key_value_heads": 2},
    "opt": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48},
    "bert": PLAIN,
}
PARTS = Callable[[nn.Module, torch.Tensor], tuple[torch.Tensor, ...]]


def by_head(attention: nn.Module, prompt: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the keys and values of a GPT-NeoX, whose fused linear goes head by head."""
    made = attention.query_key_value(prompt).view(len(prompt), 4, 3, 8)
    return made[:, :, 1].flatten(1), made[:, :, 2].flatten(1)


# The keys and values [P, K * D] that each architecture makes of a prompt, from its own modelling code.
KEYS_VALUES: dict[str, PARTS] = {
    "llama": lambda attention, prompt: (attention.k_proj(prompt), attention.v_proj(prompt)),
    "qwen3": lambda attention, prompt: (attention.k_proj(prompt), attention.v_proj(prompt)),
    "gpt2": lambda attention, prompt: attention.c_attn(prompt).split(32, -1)[1:],
    "gpt_neox": by_head,
    "phi3": lambda attention, prompt: attention.qkv_proj(prompt).split((32, 16, 16), -1)[1:],
    "opt": lambda attention, prompt: (attention.k_proj(prompt), attention.v_proj(prompt)),
    "bert": lambda attention, prompt: (attention.key(prompt), attention.value(prompt)),
}


def build(architecture: str, **changes: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(
        architecture,
        **{**SIZES[architecture], "vocab_size": 288, "pad_token_id": 0, "initializer_range": 0.15, **changes},
    )
    kind = AutoModelForMaskedLM if architecture == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    return kind.from_config(config).eval()


@pytest.fixture
def formula() -> dict[nn.Module, Callable[[torch.Tensor, float], torch.Tensor]]:
    """What is added to the output of each attention module while the model's attention is called "formula"."""
    added: dict[nn.Module, Callable[[torch.Tensor, float], torch.Tensor]] = {}

    def attention(module: nn.Module, query: torch.Tensor, *rest: Any, **options: Any) -> tuple[torch.Tensor, None]:
        output, _ = sdpa_attention_forward(module, query, *rest, **options)
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        return (output + added[module](query, scale) if module in added else output), None

    AttentionInterface.register("formula", attention)
    AttentionMaskInterface.register("formula", sdpa_mask)
    return added


@pytest.mark.parametrize("gate_activation", ["tanh", "none"])
@pytest.mark.parametrize("architecture", SIZES)
@torch.no_grad()
def test_output_is_the_formula_of_the_paper(
    architecture: str,
    gate_activation: str,
    formula: dict[nn.Module, Any],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    model, ids = build(architecture), token_ids(2, 7)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    structure = Structure(model)
    options = {"adapter_len": 3, "gate_activation": gate_activation, "adapter_layers": 2}
    adapter = randomise(build_adapter("llama_adapter", options, model, structure), scale=0.5)
    before = model(input_ids=ids, attention_mask=mask).logits

    sites = Sites(model)
    sites.plug("a", adapter.slots)
    sites.routing.set_default(("a",))
    ours = model(input_ids=ids, attention_mask=mask).logits
    sites.clear()
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)

    for path, slot in adapter.slots.items():
        module, (prompt, gate) = model.get_submodule(path), slot.parameters()
        keys, values = (
            part.view(3, -1, 8).repeat_interleave(4 * 8 // part.shape[1], 1).transpose(0, 1).double()
            for part in KEYS_VALUES[architecture](module, prompt)
        )
        factor = gate.tanh() if gate_activation == "tanh" else gate
        assert gate.shape == (4,)

        def add(query: torch.Tensor, scale: float, keys=keys, values=values, factor=factor) -> torch.Tensor:  # type: ignore[no-untyped-def]
            weights = (scale * query.double() @ keys.transpose(-1, -2)).softmax(-1)
            return (factor[:, None, None] * (weights @ values)).transpose(1, 2).to(query.dtype)

        formula[module] = add
    model.set_attn_implementation("formula")
    theirs = model(input_ids=ids, attention_mask=mask).logits
    seen = mask.bool()
    assert not torch.allclose(ours[seen], before[seen], atol=1e-2)
    torch.testing.assert_close(ours[seen], theirs[seen], rtol=1e-4, atol=1e-4)


def test_the_authors_layout_has_their_number_of_parameters() -> None:
    config = AutoConfig.for_model("llama", num_hidden_layers=32, hidden_size=4096, num_attention_heads=32)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    adapter = build_adapter("llama_adapter", {}, model, Structure(model))
    assert adapter.num_parameters() == 30 * 10 * 4096 + 30 * 32 == 1_229_760
    assert min(int(path.split(".")[2]) for path in adapter.slots) == 2


@pytest.mark.parametrize(("layers", "adapted"), [(1, 1), (2, 1), (12, 11), (30, 28), (33, 30)])
def test_any_depth_has_a_default(layers: int, adapted: int, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("gpt2", n_layer=layers)
    paths = list(create_adapter(base, "llama_adapter").slots)
    assert paths == [f"transformer.h.{i}.attn" for i in range(layers - adapted, layers)]


def test_an_encoder_decoder_has_prompts_in_the_upper_layers_of_both() -> None:
    config = AutoConfig.for_model("t5", d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, vocab_size=40)
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    slots = build_adapter("llama_adapter", {"adapter_layers": 1}, model, Structure(model)).slots
    assert [path.removesuffix("Attention") for path in slots] == [
        "encoder.block.2.layer.0.Self",
        "decoder.block.2.layer.0.Self",
        "decoder.block.2.layer.1.EncDec",
    ]


def test_start_is_standard_normal_behind_closed_gates(tiny_base: Callable[..., Base]) -> None:
    tensors = create_adapter(tiny_base(), "llama_adapter", adapter_len=400).tensors()
    for name, tensor in tensors.items():
        if name.endswith("gate"):
            assert not tensor.any()
        else:
            assert tensor.std().item() == pytest.approx(1, rel=0.05)
            assert tensor.mean().item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_merging_another_adapter_of_the_stack_changes_nothing(
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 7)
    made = [create_adapter(base, method, name=method) for method in ("lora", "llama_adapter")]
    model = AdaptedModel(base, [randomise(adapter, scale=0.3) for adapter in made])
    model.activate("lora", "llama_adapter")
    live = model(input_ids=ids).logits
    model.merge("lora")
    torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


def test_more_layers_than_there_are(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(TargetError, match="adapter_layers is 4, but this base has 3 layers; give at most that"):
        create_adapter(tiny_base(), "llama_adapter", adapter_layers=4)


def saved_by_peft(base: Base, folder: Path, **settings: Any) -> peft.PeftModel:
    torch.manual_seed(3)
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", **settings)
    model = peft.get_peft_model(base.model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "adaption_gate" in name:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
@torch.no_grad()
def test_we_read_what_peft_writes_and_peft_reads_what_we_write(
    architecture: str, tmp_path: Path, tiny_tokenizer: Any, token_ids: Callable[..., torch.Tensor]
) -> None:
    def base() -> Base:
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            architecture, **{**PLAIN, "num_key_value_heads": 2, "vocab_size": 288, "initializer_range": 0.15}
        )
        return Base.from_model(AutoModelForCausalLM.from_config(config), tiny_tokenizer, name="tiny")

    ids = token_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    seen = mask.bool()
    theirs = saved_by_peft(base(), tmp_path / "theirs", adapter_len=4, adapter_layers=1)
    expected = theirs(input_ids=ids, attention_mask=mask).logits[seen]
    ours = base()
    model = AdaptedModel(ours, [load_adapter(tmp_path / "theirs", ours)])
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[seen], expected, rtol=1e-4, atol=1e-4)

    save_adapter(model, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(base().model, str(tmp_path / "ours")).eval()
    torch.testing.assert_close(again(input_ids=ids, attention_mask=mask).logits[seen], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"shared_gate": True}, {"gate_activation": "none"}], ids=str)
@torch.no_grad()
def test_what_peft_cannot_express_is_written_in_our_own_layout(
    options: dict[str, Any], tmp_path: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    expressible = {"shared_gate": True, "gate_activation": "none"}
    model = AdaptedModel(base, [create_adapter(base, "llama_adapter", name="first", **expressible)])
    assert (save_adapter(model, tmp_path) / "adapter_config.json").exists()
    model.detach("first")
    model.attach(randomise(create_adapter(base, "llama_adapter", **options)))
    save_adapter(model, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    again = load_adapter(tmp_path, base, name="again").tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.adapter("default").tensors().items())


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma"])
def test_architectures_that_peft_lacks_are_written_in_our_own_layout(
    architecture: str, tmp_path: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(architecture)
    adapter = randomise(create_adapter(base, "llama_adapter", shared_gate=True, gate_activation="none"))
    save_adapter(AdaptedModel(base, [adapter]), tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert "PEFT reads" not in (tmp_path / "README.md").read_text(encoding="utf-8")
    again = load_adapter(tmp_path, base, name="again").tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in adapter.tensors().items())
    with pytest.raises(ValueError, match="Unsupported model type for adaption prompt"):
        saved_by_peft(tiny_base(architecture), tmp_path / "theirs", adapter_len=4, adapter_layers=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": "attn"}, "target_modules is 'attn'; petune reads 'self_attn'"),
        ({"adapter_len": None}, "'adapter_len' is missing"),
        ({"adapter_layers": 9}, "adapter_layers is 9, but this base has 3 layers"),
        ({"a_field_of_the_future": 1}, "'a_field_of_the_future' is not known"),
    ],
    ids=str,
)
def test_configs_we_cannot_follow(
    changes: dict[str, Any], message: str, tmp_path: Path, tiny_base: Callable[..., Base]
) -> None:
    saved_by_peft(tiny_base(), tmp_path, adapter_len=4, adapter_layers=2)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(AdapterFormatError, match=message):
        load_adapter(tmp_path, tiny_base())


def test_bases_on_which_peft_computes_something_else(tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    saved_by_peft(tiny_base("gpt2"), tmp_path / "gpt2", adapter_len=4, adapter_layers=2)
    with pytest.raises(AdapterFormatError, match=r"'transformer\.h\.0\.attn' is not 'self_attn' with q_proj, k_proj"):
        load_adapter(tmp_path / "gpt2", tiny_base("gpt2"))
    saved_by_peft(tiny_base(attention_bias=True), tmp_path / "llama", adapter_len=4, adapter_layers=2)
    with pytest.raises(AdapterFormatError, match="has a bias behind o_proj, which PEFT adds a second time"):
        load_adapter(tmp_path / "llama", tiny_base(attention_bias=True))


def test_peft_adds_the_bias_twice(tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]) -> None:
    base, ids = tiny_base(attention_bias=True), token_ids(1, 5)
    with torch.no_grad():
        base.model.get_parameter("model.layers.2.self_attn.o_proj.bias").fill_(1)
        before = base.model(input_ids=ids).logits
        ours = AdaptedModel(base, [create_adapter(base, "llama_adapter")])
        assert torch.equal(ours(input_ids=ids).logits, before)
        ours.detach("default")
        config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=1)
        assert not torch.allclose(peft.get_peft_model(base.model, config)(input_ids=ids).logits, before, atol=1e-2)


def test_files_of_another_kind(tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    saved_by_peft(tiny_base(), tmp_path, adapter_len=4, adapter_layers=2)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("adaption_prompt"))
    save_file({**tensors, name: tensors[name][0]}, path)
    with pytest.raises(AdapterFormatError, match=r"is neither a prompt \[1, P, d\] nor a gate \[1\]"):
        load_adapter(tmp_path, tiny_base())
