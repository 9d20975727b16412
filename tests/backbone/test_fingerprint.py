import json
from dataclasses import replace
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from petune.backbone.fingerprint import (
    Fingerprint,
    compare,
    fingerprint,
    parameter_count,
    structural,
    tokenizer_digest,
)
from petune.errors import ArtifactError

ONE = Fingerprint("a" * 64, "sha256:" + "b" * 64, "c" * 64, "llama", 30, 576, 49152, 134515008)


def test_json_round_trip() -> None:
    assert Fingerprint.from_dict(json.loads(json.dumps(ONE.to_dict()))) == ONE


@pytest.mark.parametrize(
    ("change", "named"),
    [({"num_layers": "30"}, "num_layers"), ({"extra": 1}, "extra"), ({"weights": None}, "weights")],
)
def test_malformed(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ArtifactError, match=f"fingerprint is malformed: missing, unknown or mistyped {named}$"):
        Fingerprint.from_dict({**ONE.to_dict(), **change})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"num_layers": 24}, ["layers: 30 expected, 24 found"]),
        ({"vocab_size": 50000}, ["vocabulary size: 49,152 expected, 50,000 found"]),
        ({"model_type": "gpt2"}, ["model type: llama expected, gpt2 found"]),
        ({"architecture": "d" * 64}, ["the configuration differs in settings other than its sizes"]),
        ({"weights": "unverified"}, []),
        (
            {"weights": "sha256:" + "e" * 64},
            ["weights differ: expected sha256:bbbbbbbb.., got sha256:eeeeeeee.."],
        ),
        ({"tokenizer": "e" * 64}, ["tokenizer differs: expected ccccccccccccccc.., got eeeeeeeeeeeeeee.."]),
    ],
)
def test_differences_in_plain_words(change: dict[str, Any], expected: list[str]) -> None:
    assert compare(ONE, replace(ONE, **change)) == expected


def test_of_a_model_in_memory(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    taken = fingerprint(model, tokenizer, [])
    assert (taken.model_type, taken.num_layers, taken.hidden_size, taken.vocab_size) == ("llama", 2, 32, 8)
    assert taken.weights == "unverified"
    assert taken.parameters == 2 * 8 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32) + 32


def test_only_structural_settings_count() -> None:
    plain = structural(LlamaConfig())
    other = LlamaConfig(use_cache=False, dtype="bfloat16", pad_token_id=0, architectures=["X"])
    assert structural(other) == plain
    for change in (
        {"rms_norm_eps": 1e-4},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"num_key_value_heads": 8},
    ):
        assert structural(LlamaConfig(**change)) != plain


def test_tokenizer_is_its_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer_digest(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer_digest(tokenizer) == before
    tokenizer.add_tokens(["new"])
    assert tokenizer_digest(tokenizer) != before


def test_tied_parameters_count_once(model: LlamaForCausalLM) -> None:
    tied = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "tie_word_embeddings": True}))
    assert parameter_count(model) - parameter_count(tied) == 8 * 32
