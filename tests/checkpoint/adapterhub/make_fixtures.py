"""Make the folders below with AdapterHub's own library: tiny random bases, their adapters, and what they compute.

Run it in an environment of its own (``pip install torch "adapters==1.3.*"``): ``python make_fixtures.py``.

Each folder ``<base>`` holds a base (``config.json``, ``model.safetensors``), one folder for each adapter, and
``outputs.safetensors``: the inputs, and the logits of the base with each adapter, by the adapter's name.
"""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adapters
import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

HERE = Path(__file__).parent
NAME = "task"
VOCABULARY = 24
BLOCKS = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = {**BLOCKS, "initializer_range": 0.4, "max_position_embeddings": 16, "type_vocab_size": 1}
BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (AutoModelForMaskedLM, ENCODER),
    "roberta": (AutoModelForMaskedLM, {**ENCODER, "num_hidden_layers": 1}),
    "llama": (AutoModelForCausalLM, {**BLOCKS, "num_key_value_heads": 2, "initializer_range": 0.4}),
    "gpt2": (
        AutoModelForCausalLM,
        {"n_embd": 8, "n_layer": 2, "n_head": 4, "n_positions": 16, "n_inner": 12, "initializer_range": 0.4},
    ),
    "bart": (
        AutoModelForSeq2SeqLM,
        {
            "d_model": 8,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_ffn_dim": 12,
            "decoder_ffn_dim": 12,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "max_position_embeddings": 16,
            "decoder_start_token_id": 2,
            "init_std": 0.4,
        },
    ),
    "t5": (
        AutoModelForSeq2SeqLM,
        {"d_model": 8, "num_layers": 1, "num_heads": 4, "d_kv": 3, "d_ff": 12, "decoder_start_token_id": 0},
    ),
}

Config = adapters.AdapterConfig
HOULSBY = adapters.DoubleSeqBnConfig(reduction_factor=4)
PFEIFFER = adapters.SeqBnConfig(reduction_factor=4)
PARALLEL = adapters.ParBnConfig(reduction_factor=4)
FLAT = adapters.PrefixTuningConfig(flat=True, prefix_length=3)
NETWORK = adapters.PrefixTuningConfig(prefix_length=3, bottleneck_size=5)
LORA = adapters.LoRAConfig(r=2, alpha=6)
BOTTLENECKS: dict[str, Config] = {"houlsby": HOULSBY, "pfeiffer": PFEIFFER, "parallel": PARALLEL}
SIX: dict[str, Config] = {**BOTTLENECKS, "prefix_flat": FLAT, "prefix": NETWORK, "lora": LORA}
ADAPTERS: dict[str, dict[str, Config]] = {
    "bert": {
        **SIX,
        "prefix_ejected": NETWORK,
        "left_out": adapters.SeqBnConfig(reduction_factor=4, leave_out=[0], scaling="channel", mh_adapter=True),
        "learned_scale": adapters.ParBnConfig(reduction_factor=8, scaling="learned", non_linearity="leakyrelu"),
        "lora_everywhere": adapters.LoRAConfig(
            r=3, alpha=4, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True, leave_out=[1]
        ),
    },
    "roberta": {"houlsby": HOULSBY, "pfeiffer": PFEIFFER},
    "llama": {**SIX, "lora_mlp": adapters.LoRAConfig(r=2, alpha=3, intermediate_lora=True, output_lora=True)},
    "gpt2": {
        **SIX,
        "lora_keys": adapters.LoRAConfig(r=2, alpha=3, attn_matrices=["k"]),
        "lora_all": adapters.LoRAConfig(r=2, alpha=3, attn_matrices=["v", "q", "k"], intermediate_lora=True),
    },
    "bart": {**SIX, "cross": adapters.DoubleSeqBnConfig(reduction_factor=4, cross_adapter=True)},
    "t5": {"houlsby": HOULSBY, "pfeiffer": PFEIFFER, "prefix": NETWORK, "lora": LORA},
}
Head = Callable[[Any], None]
HEADS: dict[str, dict[str, Head]] = {
    "bert": {
        "classes": lambda m: m.add_classification_head(NAME, num_labels=3, id2label={0: "low", 1: "mid", 2: "high"}),
        "classes_pooled": lambda m: m.add_classification_head(NAME, num_labels=2, layers=1, use_pooler=True),
        "tags": lambda m: m.add_tagging_head(NAME, num_labels=4),
        "spans": lambda m: m.add_qa_head(NAME),
        "classes_deep": lambda m: m.add_classification_head(NAME, num_labels=2, layers=3),
    },
    "roberta": {"classes": lambda m: m.add_classification_head(NAME, num_labels=3)},
}


@torch.no_grad()
def randomise(model: PreTrainedModel) -> None:
    """Give the adapter and the head random values that change the outputs clearly."""
    for name, parameter in model.named_parameters():
        if f".{NAME}." in name:
            seed = zlib.crc32(name.encode())
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))


def config_of(base: str) -> Any:
    """Return the configuration of a base."""
    settings = {
        "vocab_size": VOCABULARY,
        "pad_token_id": 1 if base == "roberta" else 0,
        "eos_token_id": 2,
        "bos_token_id": 3,
    }
    return AutoConfig.for_model(base, **{**settings, **BASES[base][1]})


def inputs_of(base: str) -> dict[str, torch.Tensor]:
    """Return two rows, the second padded on the right."""
    generator = torch.Generator().manual_seed(7)
    inputs = {
        "input_ids": torch.randint(4, VOCABULARY, (2, 7), generator=generator),
        "attention_mask": torch.ones(2, 7),
    }
    inputs["attention_mask"] = inputs["attention_mask"].long()
    inputs["attention_mask"][1, 5:] = 0
    inputs["input_ids"][1, 5:] = 1 if base == "roberta" else 0
    if base in ("bart", "t5"):
        inputs["decoder_input_ids"] = torch.randint(4, VOCABULARY, (2, 4), generator=generator)
    return inputs


def save(model: Any, folder: Path, *, with_head: bool) -> None:
    """Save the adapter; a prefix by way of the library's other format, whose doubled tensors safetensors refuses."""
    folder.mkdir(parents=True)
    as_pickle = any("prefix_tunings" in name for name, _ in model.named_parameters())
    model.save_adapter(str(folder), NAME, with_head=with_head, use_safetensors=not as_pickle)
    if as_pickle:
        path = folder / "pytorch_adapter.bin"
        tensors = torch.load(path, weights_only=True)
        save_file({k: v.clone() for k, v in tensors.items() if ".pool." not in k}, folder / "adapter.safetensors")
        path.unlink()


def load(base: str, auto: Any) -> Any:
    """Return the saved base in a class of the library's or of transformers'."""
    # The library's prefixes have no effect on padded rows where PyTorch computes the attention.
    model = auto.from_pretrained(HERE / base, attn_implementation="eager").eval()
    model.config.name_or_path = f"tiny-{base}"
    return model


@torch.no_grad()
def make(base: str) -> None:
    """Write everything of one base."""
    shutil.rmtree(HERE / base, ignore_errors=True)
    auto = BASES[base][0]
    torch.manual_seed(0)
    # A BERT comes with its pooler, which only some heads read.
    (AutoModelForPreTraining if base == "bert" else auto).from_config(config_of(base)).save_pretrained(HERE / base)
    (HERE / base / "generation_config.json").unlink(missing_ok=True)
    inputs = inputs_of(base)
    outputs = {**inputs, "logits": load(base, auto)(**inputs).logits}
    for name, config in ADAPTERS[base].items():
        model = load(base, auto)
        adapters.init(model)
        model.add_adapter(NAME, config=config)
        randomise(model)
        if name == "prefix_ejected":
            model.eject_prefix_tuning(NAME)
        model.set_active_adapters(NAME)
        outputs[f"logits.{name}"] = model(**inputs).logits
        save(model, HERE / base / name, with_head=name == "lora" and base in ("llama", "gpt2"))
    for name, add_head in HEADS.get(base, {}).items():
        model = load(base, adapters.AutoAdapterModel)
        model.add_adapter(NAME, config=LORA)
        add_head(model)
        randomise(model)
        model.set_active_adapters(NAME)
        result = model(**inputs)
        outputs[f"logits.{name}"] = (
            torch.stack([result.start_logits, result.end_logits], -1) if name == "spans" else result.logits
        )
        save(model, HERE / base / name, with_head=True)
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, HERE / base / "outputs.safetensors")


if __name__ == "__main__":
    for architecture in BASES:
        make(architecture)
