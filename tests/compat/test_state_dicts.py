"""Tensors of an adapter under PEFT's names."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from petune.compat.peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from petune.errors import AdapterFormatError, ConfigError


def test_round_trip_of_a_named_adapter(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="french")
    tensors = get_peft_model_state_dict(model, adapter_name="french")
    assert len(tensors) == 6
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    set_peft_model_state_dict(model, changed, adapter_name="french")
    again = get_peft_model_state_dict(model, adapter_name="french")
    assert all(torch.equal(again[name], tensor) for name, tensor in changed.items())


def test_what_does_not_fit_is_refused(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    tensors = get_peft_model_state_dict(model)
    first = next(iter(tensors))
    with pytest.raises(AdapterFormatError, match="is missing"):
        set_peft_model_state_dict(model, {n: t for n, t in tensors.items() if n != first})
    with pytest.raises(AdapterFormatError, match="shape"):
        set_peft_model_state_dict(model, {**tensors, first: tensors[first][:1]})
    with pytest.raises(ConfigError, match="no adapter 'french' is attached"):
        get_peft_model_state_dict(model, adapter_name="french")
    with pytest.raises(ConfigError, match="ignore_mismatched_sizes=True is not supported"):
        set_peft_model_state_dict(model, tensors, ignore_mismatched_sizes=True)
    with pytest.raises(ConfigError, match="save_embedding_layers=True is not supported"):
        get_peft_model_state_dict(model, save_embedding_layers=True)


def test_a_state_dict_of_other_values_is_refused(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]))
    state = model.state_dict()
    assert get_peft_model_state_dict(model, state).keys() == get_peft_model_state_dict(model).keys()
    learned = next(name for name in state if "lora_B" in name)
    with pytest.raises(ConfigError, match="holds another value than the model; call load_state_dict"):
        get_peft_model_state_dict(model, {**state, learned: state[learned] + 1})
    with pytest.raises(ConfigError, match="state_dict lacks"):
        get_peft_model_state_dict(model, {n: t for n, t in state.items() if n != learned})
