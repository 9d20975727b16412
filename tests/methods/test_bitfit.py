"""BitFit: which biases, the formula, merging, models without any."""

from collections.abc import Callable

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, build_adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.errors import TargetError


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "bloom"])
@torch.no_grad()
def test_it_equals_a_model_with_other_biases(
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 7)
    adapter = randomise(create_adapter(base, "bitfit"))
    other = tiny_base(architecture).model
    biases = {name: p for name, p in other.named_parameters() if name.endswith(".bias")}
    assert set(adapter.tensors()) == set(biases)
    for name, change in adapter.tensors().items():
        biases[name].add_(change)
    model = AdaptedModel(base, [adapter])
    torch.testing.assert_close(model(input_ids=ids).logits, other(input_ids=ids).logits, rtol=1e-4, atol=1e-4)

    model.merge("default")
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in base.model.named_parameters())


def test_bert_base_has_as_many_as_the_paper_trains() -> None:
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("bert"))
    structure = Structure(model)
    biases = build_adapter("bitfit", {}, model, structure).without_replacements()  # the head is learned besides
    assert biases.num_parameters() == 12 * (7 * 768 + 3072) + 2 * 768 == 102_912
    half = {"bias_modules": ("*.query", "*.intermediate.dense")}
    assert build_adapter("bitfit", half, model, structure).without_replacements().num_parameters() == 12 * (768 + 3072)


def test_some_biases_only_and_none_of_the_head() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi", num_hidden_layers=2))
    assert model.lm_head.bias is not None
    slots = build_adapter("bitfit", {}, model, Structure(model)).slots
    assert "lm_head" not in slots
    assert "model.final_layernorm" in slots


def test_a_model_without_biases_is_refused(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(TargetError, match=r"this base has no biases .*; ia3, lora and bottleneck work on it"):
        create_adapter(tiny_base(), "bitfit")


def test_a_pattern_that_matches_nothing(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(TargetError, match=r"bias_modules: '\*\.query' matches no module with a bias; paths look like"):
        create_adapter(tiny_base("gpt2"), "bitfit", bias_modules=("*.query",))
