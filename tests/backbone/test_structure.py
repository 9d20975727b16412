from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
)

from petune.backbone.loading import quiet
from petune.backbone.structure import Structure, body_of
from petune.errors import BaseModelError, TargetError

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8}
OPT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 48,
    "word_embed_proj_dim": 16,
}
BART = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in (("layers", 2), ("attention_heads", 4))}
LLAMA_ATTENTION, LLAMA_MLP = "q_proj k_proj v_proj o_proj", "gate_proj up_proj down_proj"
FUSED, FUSED_MLP = "query_key_value dense", "dense_h_to_4h dense_4h_to_h"
BERT = "query key value dense"

# model type: settings, kind, blocks, and the leaf names of attention, mlp, head, other
ARCHITECTURES = {
    "llama": (GROUPED, "decoder", 2, LLAMA_ATTENTION, LLAMA_MLP, "lm_head", ""),
    "mistral": (GROUPED, "decoder", 2, LLAMA_ATTENTION, LLAMA_MLP, "lm_head", ""),
    "qwen2": (GROUPED, "decoder", 2, LLAMA_ATTENTION, LLAMA_MLP, "lm_head", ""),
    "qwen3": (GROUPED, "decoder", 2, LLAMA_ATTENTION, LLAMA_MLP, "lm_head", ""),
    "gemma": (GROUPED, "decoder", 2, LLAMA_ATTENTION, LLAMA_MLP, "lm_head", ""),
    "glm": (GROUPED, "decoder", 2, LLAMA_ATTENTION, "gate_up_proj down_proj", "lm_head", ""),
    "phi": (PLAIN, "decoder", 2, "q_proj k_proj v_proj dense", "fc1 fc2", "lm_head", ""),
    "gpt2": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4},
        "decoder",
        2,
        "c_attn c_proj",
        "c_fc c_proj",
        "lm_head",
        "",
    ),
    "gpt_neox": (PLAIN, "decoder", 2, FUSED, FUSED_MLP, "lm_head", ""),
    "bloom": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, "decoder", 2, FUSED, FUSED_MLP, "lm_head", ""),
    "falcon": (PLAIN, "decoder", 2, FUSED, FUSED_MLP, "lm_head", ""),
    "opt": (
        OPT,
        "decoder",
        2,
        "q_proj k_proj v_proj out_proj",
        "fc1 fc2",
        "lm_head",
        "project_in project_out",
    ),
    "bert": (PLAIN, "encoder", 2, BERT, "dense", "dense decoder", ""),
    "roberta": (PLAIN, "encoder", 2, BERT, "dense", "dense decoder", ""),
    "albert": (
        {**PLAIN, "embedding_size": 16},
        "encoder",
        1,
        BERT,
        "ffn ffn_output",
        "dense decoder",
        "embedding_hidden_mapping_in",
    ),
    "electra": (
        {**PLAIN, "embedding_size": 16},
        "encoder",
        2,
        BERT,
        "dense",
        "dense generator_lm_head",
        "embeddings_project",
    ),
    "distilbert": (
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        "encoder",
        2,
        "q_lin k_lin v_lin out_lin",
        "lin1 lin2",
        "vocab_transform vocab_projector",
        "",
    ),
    "modernbert": (PLAIN, "encoder", 2, "Wqkv Wo", "Wi Wo", "dense decoder", ""),
    "deberta-v2": (PLAIN, "encoder", 2, "query_proj key_proj value_proj dense", "dense", "dense decoder", ""),
    "t5": (
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48},
        "encoder-decoder",
        4,
        "q k v o",
        "wi wo",
        "lm_head",
        "",
    ),
    "bart": (
        {"d_model": 32, **BART},
        "encoder-decoder",
        4,
        "q_proj k_proj v_proj out_proj",
        "fc1 fc2",
        "lm_head",
        "",
    ),
}
AUTO = {
    "decoder": AutoModelForCausalLM,
    "encoder": AutoModelForMaskedLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}


def build(model_type: str) -> PreTrainedModel:
    settings, kind = ARCHITECTURES[model_type][:2]
    with quiet(), torch.device("meta"):
        return AUTO[kind].from_config(AutoConfig.for_model(model_type, vocab_size=64, pad_token_id=0, **settings))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_roles_of_an_architecture(model_type: str) -> None:
    _, kind, blocks, attention, mlp, head, other = ARCHITECTURES[model_type]
    structure = Structure(build(model_type))
    expected = {"attention": attention, "mlp": mlp, "head": head, "other": other}
    found = structure.names_by_role()
    assert {role: set(names) for role, names in found.items()} == {r: set(n.split()) for r, n in expected.items() if n}
    assert (structure.kind, structure.num_blocks, structure.hidden_size) == (kind, blocks, 32)
    assert structure.is_decoder_lm == (kind == "decoder")


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_sizes_and_ties_agree_with_the_weights(model_type: str) -> None:
    model = build(model_type)
    weights = dict(model.named_parameters(remove_duplicate=False))
    structure = Structure(model)
    assert len({linear.path for linear in structure.linears}) == len(structure.linears)
    for linear in structure.linears:
        weight = weights[f"{linear.path}.weight"]
        shape = (linear.out_features, linear.in_features)
        assert tuple(weight.shape) == (shape[::-1] if linear.transposed else shape)
        assert linear.tied == (sum(other is weight for other in weights.values()) > 1)
        inside = [i for i, block in enumerate(structure.blocks) if linear.path.startswith(block + ".")]
        assert inside == ([] if linear.block is None else [linear.block])


@pytest.mark.parametrize("model_type", [name for name, row in ARCHITECTURES.items() if row[1] == "decoder"])
def test_all_linear_is_what_peft_takes(model_type: str) -> None:
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import _maybe_include_all_linear_layers

    model = build(model_type)
    config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = _maybe_include_all_linear_layers(config, model).target_modules
    assert {linear.path for linear in Structure(model).select("all-linear")} == theirs


def test_gpt2_is_transposed_and_its_head_is_tied() -> None:
    structure = Structure(GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=32, n_layer=1, n_head=4)))
    fused = structure.linear("transformer.h.0.attn.c_attn")
    assert (fused.in_features, fused.out_features, fused.transposed, fused.tied) == (32, 96, True, False)
    head = structure.linear("lm_head")
    assert (head.transposed, head.tied, head.block) == (False, True, None)


def test_output_projection_of_torch_attention_is_left_out() -> None:
    structure = Structure(nn.TransformerEncoderLayer(16, 4, 32))
    assert [linear.path for linear in structure.linears] == ["linear1", "linear2"]


def test_model_without_linears() -> None:
    with pytest.raises(TargetError, match="no linear layer"):
        _ = Structure(nn.Embedding(4, 4)).hidden_size


def test_linear_at_a_wrong_path(model: LlamaForCausalLM) -> None:
    with pytest.raises(TargetError, match=r"no linear at 'model.layers.0.q_proj'. Did you mean 'model.layers.0"):
        Structure(model).linear("model.layers.0.q_proj")


def test_layers_and_exclude(model: LlamaForCausalLM) -> None:
    chosen = Structure(model).select("attention", exclude=["k_proj", "layers.1.self_attn.v_proj"], layers=[1])
    assert [linear.path.removeprefix("model.layers.") for linear in chosen] == [
        "1.self_attn.q_proj",
        "1.self_attn.o_proj",
    ]


def test_layers_leave_out_what_is_in_no_block(model: LlamaForCausalLM) -> None:
    chosen = Structure(model).select(["lm_head", "q_proj"], layers=[0])
    assert [linear.path for linear in chosen] == ["model.layers.0.self_attn.q_proj"]


REFUSED: list[tuple[Callable[[Structure], object], str]] = [
    (
        lambda s: s.select("mlp", layers=[2]),
        r"layer 2 does not exist: this base model has 2 blocks, numbered 0 to 1",
    ),
    (lambda s: s.select("mlp", layers=[-1]), r"layer -1 does not exist"),
    (
        lambda s: s.select("mlp", exclude=["mlp"]),
        r"no linear is left of target modules 'mlp' after exclude=\['mlp'\]",
    ),
    (lambda s: s.select(["lm_head"], layers=[0]), r"no linear is left"),
    (lambda s: s.select("mlp", layers=[]), r"no linear is left"),
    (
        lambda s: s.select("mlp", exclude=["gate_prj"]),
        r"excluded modules: 'gate_prj' .* Did you mean 'gate_proj'",
    ),
]


@pytest.mark.parametrize(("select", "message"), REFUSED)
def test_select_refuses(select: Callable[[Structure], object], message: str, model: LlamaForCausalLM) -> None:
    with pytest.raises(TargetError, match=message):
        select(Structure(model))


def test_embeddings_are_tables_that_are_looked_up_by_their_input(tiny_model: Callable[..., PreTrainedModel]) -> None:
    found = {table.path: (table.num_embeddings, table.block) for table in Structure(tiny_model("gpt2")).embeddings}
    assert found == {"transformer.wte": (288, None), "transformer.wpe": (128, None)}
    names = [table.path for table in Structure(tiny_model("opt")).embeddings]
    assert names == ["model.decoder.embed_tokens"]  # positions are called with a mask
    structure = Structure(tiny_model("llama"))
    chosen = structure.select_with_embeddings(["embed_tokens", "q_proj"], layers=None)
    assert [module.path for module in chosen][-1] == "model.embed_tokens"
    assert all("embed" not in module.path for module in structure.select_with_embeddings("all-linear"))


def test_heads_and_widths_of_attentions_are_their_own(tiny_model: Callable[..., PreTrainedModel]) -> None:
    def sizes(architecture: str) -> list[tuple[int, int, int, int]]:
        found = Structure(tiny_model(architecture)).attentions
        return [(a.num_heads, a.num_kv_heads, a.head_dim, a.value_dim) for a in found]

    narrow = {"intra_bottleneck_size": 16, "embedding_size": 16, "use_bottleneck": True}
    mobile = AutoModelForMaskedLM.from_config(AutoConfig.for_model("mobilebert", **PLAIN, **narrow))
    (first, _) = Structure(mobile).attentions
    assert first.head_dim * first.num_heads == mobile.get_submodule(first.path).get_submodule("key").out_features == 16
    assert sizes("gemma2") == [(4, 2, 8, 8)] * 2
    assert sizes("deepseek_v3") == [(4, 4, 16, 8)] * 2
    assert sizes("gemma4_text") == [(4, 2, 8, 8), (4, 1, 16, 16)]


def test_a_router_is_no_linear_and_a_linear_with_a_forward_of_its_own_is(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    llama4 = Structure(tiny_model("llama4_text"))
    assert not any(linear.path.endswith("router") for linear in llama4.linears)
    assert {linear.role for linear in llama4.linears} == {"attention", "mlp", "head"}
    falcon = Structure(tiny_model("falcon"))
    assert {linear.path.rpartition(".")[2] for linear in falcon.select("all-linear")} == {
        *f"{FUSED} {FUSED_MLP}".split()
    }


def test_the_body_is_what_holds_the_blocks(tiny_model: Callable[..., PreTrainedModel]) -> None:
    for architecture, path in {"llama": "model", "gpt2": "transformer", "llama4_text": "model", "t5": ""}.items():
        model = tiny_model(architecture)
        assert body_of(model) is (model.get_submodule(path) if path else model.base_model)


def test_attentions_without_heads_are_refused() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50, "context_length": 16}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("rwkv", **sizes))
    with pytest.raises(BaseModelError, match="RwkvSelfAttention has no heads"):
        Structure(model)
