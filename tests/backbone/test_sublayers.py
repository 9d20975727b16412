"""Sub-layers, the linears of keys and values, and norms, on many architectures."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from petune.backbone.structure import Structure
from petune.backbone.sublayers import key_value_linears, norms, sub_layers
from petune.errors import TargetError

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8}
BART = {
    f"{side}_{key}": n
    for side in ("encoder", "decoder")
    for key, n in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 48))
}

# settings; linears of keys and values; first and last of attention and feed-forward layer, below a block
DECODERS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "llama": (GROUPED, "k_proj v_proj", "self_attn.q_proj self_attn.o_proj", "mlp.gate_proj mlp.down_proj"),
    "gpt2": ({"n_embd": 32, "n_layer": 2, "n_head": 4}, "c_attn", "attn.c_attn attn.c_proj", "mlp.c_fc mlp.c_proj"),
    "gpt_neox": (
        PLAIN,
        "query_key_value",
        "attention.query_key_value attention.dense",
        "mlp.dense_h_to_4h mlp.dense_4h_to_h",
    ),
    "phi3": (GROUPED, "qkv_proj", "self_attn.qkv_proj self_attn.o_proj", "mlp.gate_up_proj mlp.down_proj"),
    "opt": (
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48},
        "k_proj v_proj",
        "self_attn.k_proj self_attn.out_proj",
        "fc1 fc2",
    ),
}


def skeleton(kind: Any, architecture: str, **settings: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(architecture, **{"vocab_size": 64, "pad_token_id": 0, **settings})
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config)
    return model


def described(model: PreTrainedModel) -> list[str]:
    """Return each sub-layer as ``role first last``."""
    return [f"{layer.role} {layer.first.path} {layer.last.path}" for layer in sub_layers(model, Structure(model))]


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders(architecture: str) -> None:
    settings, key_value, attention, mlp = DECODERS[architecture]
    model = skeleton(AutoModelForCausalLM, architecture, **settings)
    structure = Structure(model)
    block = structure.blocks[0]
    linears = key_value_linears(structure, structure.attentions[0])
    assert [linear.path.rpartition(".")[2] for linear in linears] == key_value.split()
    for role, names in (("attention", attention), ("mlp", mlp)):
        assert " ".join([role, *(f"{block}.{name}" for name in names.split())]) in described(model)
    assert len(described(model)) == 4


def test_an_encoder() -> None:
    model = skeleton(AutoModelForMaskedLM, "bert", **PLAIN)
    structure = Structure(model)
    block = "bert.encoder.layer.0"
    assert described(model)[:2] == [
        f"attention {block}.attention.self.query {block}.attention.output.dense",
        f"mlp {block}.intermediate.dense {block}.output.dense",
    ]
    linears = key_value_linears(structure, structure.attentions[0])
    assert [linear.path.rpartition(".")[2] for linear in linears] == ["key", "value"]
    assert [norm.path for norm in norms(model, structure)] == [
        "bert.embeddings.LayerNorm",
        *(f"bert.encoder.layer.{i}.{part}.LayerNorm" for i in (0, 1) for part in ("attention.output", "output")),
        "cls.predictions.transform.LayerNorm",
    ]


def test_a_decoder_that_reads_an_encoder_has_two_attentions_a_block() -> None:
    model = skeleton(AutoModelForSeq2SeqLM, "bart", d_model=32, **BART)
    block = "model.decoder.layers.0"
    assert described(model)[-3:] == [
        f"attention {block}.self_attn.k_proj {block}.self_attn.out_proj",
        f"attention {block}.encoder_attn.k_proj {block}.encoder_attn.out_proj",
        f"mlp {block}.fc1 {block}.fc2",
    ]


def test_norms_of_single_heads_are_left_out() -> None:
    model = skeleton(AutoModelForCausalLM, "qwen3", **GROUPED)
    found = norms(model, Structure(model))
    assert len(found) == 5
    assert all(norm.width == 32 and not norm.has_bias for norm in found)
    gpt2 = skeleton(AutoModelForCausalLM, "gpt2", n_embd=32, n_layer=2, n_head=4)
    assert all(norm.has_bias for norm in norms(gpt2, Structure(gpt2)))


def test_keys_and_values_that_cannot_be_told() -> None:
    settings = {**PLAIN, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "first_k_dense_replace": 2}
    heads = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 2, "n_group": 1}
    model = skeleton(AutoModelForCausalLM, "deepseek_v3", **settings, **heads, topk_group=1, num_experts_per_tok=1)
    structure = Structure(model)
    with pytest.raises(TargetError, match=r"cannot be told in 'model\.layers\.0\.self_attn' \(its linears: q_a_proj"):
        key_value_linears(structure, structure.attentions[0])


def test_a_model_without_blocks() -> None:
    model = skeleton(AutoModelForCausalLM, "gpt2", n_embd=32, n_layer=0, n_head=4)
    with pytest.raises(TargetError, match="no linears in its blocks"):
        sub_layers(model, Structure(model))


MIXTURES = {
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "qwen2_moe": {**GROUPED, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24},
    "llama4_text": {**GROUPED, "num_local_experts": 2, "intermediate_size_mlp": 48},
}


@pytest.mark.parametrize("architecture", MIXTURES)
def test_mixtures_of_experts_are_refused(architecture: str) -> None:
    model = skeleton(AutoModelForCausalLM, architecture, **MIXTURES[architecture])
    with pytest.raises(TargetError, match=r"experts' holds experts, .* chosen linears \(target_modules\) work on this"):
        sub_layers(model, Structure(model))


def test_blocks_of_attention_alone_are_refused() -> None:
    model = skeleton(AutoModelForCausalLM, "llama", **GROUPED)
    for block in model.model.layers:
        block.mlp = torch.nn.Identity()
    with pytest.raises(TargetError, match="no linears beside their attentions, so there is no feed-forward layer"):
        sub_layers(model, Structure(model))


def test_a_sub_layer_as_wide_as_nothing_is_refused() -> None:
    model = skeleton(AutoModelForCausalLM, "llama", **GROUPED)
    model.model.layers[0].mlp.down_proj = torch.nn.Linear(48, 31)
    with pytest.raises(TargetError, match=r"as wide as the residual stream \(32\): .*down_proj' \(31\)"):
        sub_layers(model, Structure(model))


def test_the_width_is_the_residual_stream_s_where_more_linears_have_another() -> None:
    model = skeleton(
        AutoModelForCausalLM, "mamba", hidden_size=32, num_hidden_layers=2, state_size=4, intermediate_size=64
    )
    assert Structure(model).hidden_size == 32
    assert described(model)[0] == "mlp backbone.layers.0.mixer.in_proj backbone.layers.0.mixer.out_proj"
