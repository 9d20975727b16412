"""PEFT's config classes: its defaults, its files, and arguments that are refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from petune.checkpoint.peft import LAYOUTS
from petune.compat.config import PeftConfig, get_peft_config
from petune.compat.peft import (
    IA3Config,
    LoraConfig,
    PeftType,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
)
from petune.errors import BaseModelError, ConfigError

# PEFT calls a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CLASSES = sorted(PeftConfig.classes.values(), key=lambda kind: kind.__name__)


def test_every_type_of_a_layout_has_a_class() -> None:
    types = {layout.peft_type for layout in LAYOUTS.values()}
    assert {kind.value for kind in PeftType} == types == PeftConfig.classes.keys()


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_defaults_and_type_are_peft_s(kind: type[PeftConfig]) -> None:
    theirs = getattr(peft, kind.__name__)()
    ours = kind()
    assert ours.peft_type == theirs.peft_type
    assert ours.is_prompt_learning == theirs.is_prompt_learning
    assert ours.is_adaption_prompt == theirs.is_adaption_prompt
    for name, value in kind.defaults.items():
        assert value == getattr(theirs, name), name
    followed = set(ours.layout.followed)
    assert followed <= kind.defaults.keys() | {"peft_type"}, "a field that is followed has a default to hold"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_what_peft_s_class_says_when_left_alone_is_accepted(kind: type[PeftConfig]) -> None:
    theirs = getattr(peft, kind.__name__)().to_dict()
    ours = get_peft_config(theirs)
    assert type(ours) is kind
    assert {name: value for name, value in ours.to_dict().items() if name in kind.defaults} == {
        name: theirs[name] for name in kind.defaults
    }


def test_ia3_wants_its_modules_named(tiny_model: Callable[..., PreTrainedModel]) -> None:
    with pytest.raises(ConfigError, match="IA3Config: 'target_modules' is missing"):
        get_peft_model(tiny_model(), IA3Config())


@pytest.mark.parametrize("start", ["eva", "orthogonal", "loftq", "pissa"])
def test_a_start_that_petune_lacks_is_refused(tiny_model: Callable[..., PreTrainedModel], start: object) -> None:
    with pytest.raises(ConfigError, match="init_lora_weights"):
        get_peft_model(tiny_model(), LoraConfig(init_lora_weights=start))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "num_virtual_tokens is missing"),
        ({"num_virtual_tokens": 4, "num_layers": 7}, "num_layers=7, but the base has 3; leave it out"),
        ({"num_virtual_tokens": 4, "num_layers": [3]}, r"num_layers=\[3\], but the base has 3; leave it out"),
        ({"num_virtual_tokens": 4, "token_dim": 7}, "token_dim=7, but the base has 16 or 32"),
        ({"num_virtual_tokens": 4, "num_attention_heads": 3}, "num_attention_heads=3, but the base has 2 or 4"),
        ({"num_virtual_tokens": 4, "num_transformer_submodules": 2}, "num_transformer_submodules is 2, expected 1"),
        ({"num_virtual_tokens": 4, "prompt_tuning_init": "TEXT"}, "is TEXT, so prompt_tuning_init_text is needed"),
        (
            {"num_virtual_tokens": 4, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "a"},
            "is TEXT, so tokenizer_name_or_path is needed",
        ),
        ({"num_virtual_tokens": 4, "tokenizer_kwargs": {"a": 1}}, "tokenizer_kwargs goes with"),
        (
            {
                "num_virtual_tokens": 4,
                "prompt_tuning_init": "TEXT",
                "prompt_tuning_init_text": "a",
                "tokenizer_name_or_path": "theirs",
                "tokenizer_kwargs": {"trust_remote_code": True},
            },
            "tokenizer_kwargs has trust_remote_code",
        ),
        ({"num_virtual_tokens": 4, "prompt_tuning_init": "ZERO"}, "prompt_tuning_init='ZERO' is a start that petune"),
    ],
)
def test_prompts_that_do_not_fit(
    tiny_model: Callable[..., PreTrainedModel], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        get_peft_model(tiny_model(), PromptTuningConfig(**fields))


def test_sizes_that_fit_are_taken(tiny_model: Callable[..., PreTrainedModel]) -> None:
    config = PromptTuningConfig(num_virtual_tokens=4, num_layers=3, token_dim=32, num_attention_heads=4)
    assert get_peft_model(tiny_model(), config).get_nb_trainable_parameters()[0] == 4 * 32


@pytest.mark.filterwarnings("ignore")  # of a model that would rather have kernels of its own
@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("mamba", ["in_proj", "conv1d"], "target_modules names 'conv1d', and '.*' is a Conv1d; petune adapts linears"),
        ("llama", ["q_proj", "mlp"], "target_modules names 'mlp', and '.*' is a LlamaMLP; .* name those inside it"),
    ],
)
def test_modules_that_are_no_linears_are_not_left_out_in_silence(
    tiny_model: Callable[..., PreTrainedModel], kind: str, names: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"LoraConfig: {message}"):
        get_peft_model(tiny_model(kind), LoraConfig(target_modules=names))
    get_peft_model(tiny_model(kind), LoraConfig(target_modules=[names[0], "of_another_base"]))


@pytest.mark.filterwarnings("ignore")  # of a model that would rather have kernels of its own
def test_bases_without_attention(tiny_model: Callable[..., PreTrainedModel]) -> None:
    for config in (PromptTuningConfig(num_virtual_tokens=3), PromptEncoderConfig(num_virtual_tokens=3, token_dim=32)):
        model = get_peft_model(tiny_model("mamba"), config).eval()
        ids = torch.tensor([[9, 10, 11]])
        assert model.generate(input_ids=ids, max_new_tokens=2, pad_token_id=0, eos_token_id=None).shape == (1, 5)
    with pytest.raises(ConfigError, match="num_attention_heads=4, but the base has none; leave it out"):
        get_peft_model(tiny_model("mamba"), PromptTuningConfig(num_virtual_tokens=3, num_attention_heads=4))
    for more in ({}, {"prefix_projection": True}):
        with pytest.raises(BaseModelError, match="MambaForCausalLM has no attention"):
            get_peft_model(tiny_model("mamba"), PrefixTuningConfig(num_virtual_tokens=3, **more))


@pytest.mark.parametrize("architecture", ["llama", "gemma"])  # the embeddings of the second multiply
@pytest.mark.parametrize("length", [3, 30])
def test_a_text_start_is_cut_or_repeated_as_in_peft(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    architecture: str,
    length: int,
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    fields = {
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": length,
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "is it good?",
        "tokenizer_name_or_path": str(tmp_path),
        "tokenizer_kwargs": {"padding_side": "left"},
    }
    ours = (
        get_peft_model(tiny_model(architecture), PromptTuningConfig(**fields)).base_model.adapter("default").tensors()
    )
    theirs = peft.get_peft_model(tiny_model(architecture), peft.PromptTuningConfig(**fields))
    expected = theirs.prompt_encoder["default"].embedding.weight
    torch.testing.assert_close(ours["source.prompt_embeddings"], expected.detach())


def test_sampled_and_random_starts_follow_torch_s_seed(tiny_model: Callable[..., PreTrainedModel]) -> None:
    for start in (PromptTuningInit.RANDOM, "SAMPLE_VOCAB"):
        tensors = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            config = PromptTuningConfig(num_virtual_tokens=4, prompt_tuning_init=start)
            model = get_peft_model(tiny_model(), config)
            tensors.append(model.base_model.adapter("default").tensors()["source.prompt_embeddings"])
        assert torch.equal(tensors[0], tensors[1])
        assert not torch.equal(tensors[0], tensors[2])


@pytest.mark.parametrize(
    "fields",
    [
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"], "trainable_token_indices": [5, 9]},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_variants_of_lora_have_the_parameters_of_peft(
    tiny_model: Callable[..., PreTrainedModel], fields: dict[str, object]
) -> None:
    ours = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", **fields))
    theirs = peft.get_peft_model(tiny_model(), peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    assert ours.get_nb_trainable_parameters()[0] == theirs.get_nb_trainable_parameters()[0]
    changes = [
        bool(model(torch.tensor([[5, 9]])).logits.sub(tiny_model()(torch.tensor([[5, 9]])).logits).any())
        for model in (ours.eval(), theirs.eval())
    ]
    assert changes == [fields.get("init_lora_weights") is False] * 2
