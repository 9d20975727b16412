"""The wrapped model: what is forwarded, what is its own, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base, load_base
from petune.compat.peft import LoraConfig, PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from petune.errors import AdapterFormatError, BaseModelError, ConfigError

# PEFT calls a name of transformers that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

Build = Callable[..., PreTrainedModel]


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(2, 6)


def filled(model: PeftModel, value: float = 0.05) -> PeftModel:
    with torch.no_grad():
        for adapter in model.base_model.adapters.values():
            for tensor in adapter.tensors().values():
                tensor.fill_(value)
    return model


def test_attributes_are_the_model_s_own(tiny_model: Build) -> None:
    base = tiny_model()
    model = get_peft_model(base, LoraConfig())
    assert model.config is base.config
    assert model.generation_config is base.generation_config
    assert model.device == base.device
    assert model.dtype == base.dtype
    assert model.get_input_embeddings() is base.get_input_embeddings()
    assert model.get_base_model() is model.base_model.model is base
    assert model.lm_head is base.lm_head
    with pytest.raises(AttributeError, match="no_such_attribute"):
        _ = model.no_such_attribute


def test_inputs_may_be_positional(tiny_model: Build, ids: torch.Tensor) -> None:
    model, mask = filled(get_peft_model(tiny_model(), LoraConfig()).eval()), torch.ones_like(ids)
    with torch.no_grad():
        assert torch.equal(model(ids, mask).logits, model(input_ids=ids, attention_mask=mask).logits)
    with pytest.raises(TypeError, match="multiple values for argument 'input_ids'"):
        model(ids, input_ids=ids)
    with pytest.raises(TypeError, match="too many positional arguments"):
        model(*[ids] * 40)


def test_modes_are_as_in_peft(tiny_model: Build) -> None:
    for training in (True, False):
        ours = get_peft_model(tiny_model().train(training), LoraConfig(lora_dropout=0.1))
        theirs = peft.get_peft_model(tiny_model().train(training), peft.LoraConfig(lora_dropout=0.1))
        assert ours.training is theirs.training is True
        assert ours.get_base_model().lm_head.training is theirs.get_base_model().lm_head.training is training
        assert all(slot.training for slot in ours.base_model.adapter("default").slots.values())
        ours.eval()
        assert not any(module.training for module in ours.modules())


def test_only_the_active_adapter_trains(tiny_model: Build) -> None:
    model = get_peft_model(tiny_model(), LoraConfig())
    model.add_adapter("second", LoraConfig(r=2))
    first, second = (list(model.base_model.adapter(name).parameters()) for name in ("default", "second"))

    def trained() -> tuple[bool, bool]:
        learned = {id(p) for p in model.parameters() if p.requires_grad}
        return {id(p) for p in first} <= learned, {id(p) for p in second} <= learned

    assert trained() == (True, False)
    model.set_adapter("second")
    assert trained() == (False, True)
    assert model.active_peft_config.r == 2
    model.set_adapter(["default", "second"])
    assert trained() == (True, True)
    assert model.active_adapter == model.active_adapters == ["default", "second"]
    model.set_adapter("default", inference_mode=True)
    assert trained() == (False, False)
    assert get_peft_model(tiny_model(), LoraConfig(inference_mode=True)).get_nb_trainable_parameters()[0] == 0


@pytest.mark.parametrize("fields", [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": "all-linear"}], ids=str)
def test_the_counts_are_peft_s(tiny_model: Build, capsys: pytest.CaptureFixture[str], fields: dict[str, Any]) -> None:
    ours = get_peft_model(tiny_model(), LoraConfig(**fields))
    theirs = peft.get_peft_model(tiny_model(), peft.LoraConfig(**fields))
    assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()
    ours.print_trainable_parameters()
    theirs.print_trainable_parameters()
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_a_model_with_adapters_is_not_wrapped_twice(tiny_model: Build) -> None:
    model = get_peft_model(tiny_model(), LoraConfig())
    with pytest.raises(ConfigError, match="has adapters already; use its add_adapter"):
        get_peft_model(model, LoraConfig())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the model is a Linear; petune adapts models of transformers"):
        get_peft_model(nn.Linear(2, 2), LoraConfig())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another AdaptedModel has adapters attached"):
        get_peft_model(model.get_base_model(), LoraConfig())


def test_the_base_is_free_again_once_the_model_is_gone(tiny_model: Build, ids: torch.Tensor) -> None:
    base = tiny_model()
    with torch.no_grad():
        bare = base(ids).logits
        model = filled(get_peft_model(base, LoraConfig()))
        assert not torch.equal(model(ids).logits, bare)
        del model
        assert torch.equal(base(ids).logits, bare)
        assert torch.equal(get_peft_model(base, LoraConfig())(ids).logits, bare)


def test_a_model_for_another_task_is_refused(tiny_model: Build) -> None:
    with pytest.raises(ConfigError, match="task_type is SEQ_CLS, but a LlamaForCausalLM is for CAUSAL_LM; load"):
        get_peft_model(tiny_model(), LoraConfig(task_type="SEQ_CLS"))
    model = get_peft_model(tiny_model("bert"), LoraConfig())
    with pytest.raises(ConfigError, match="is TOKEN_CLS, but a BertForMaskedLM is for FEATURE_EXTRACTION; load"):
        model.add_adapter("second", LoraConfig(task_type="TOKEN_CLS"))
    with pytest.raises(BaseModelError, match="a LlamaModel has no head of a task that petune knows"):
        get_peft_model(tiny_model().model, LoraConfig())


@torch.no_grad()
def test_an_encoder_of_masked_texts_comes_back(tiny_model: Build, ids: torch.Tensor, tmp_path: Path) -> None:
    config = LoraConfig(task_type=TaskType.FEATURE_EXTRACTION)
    for name, given in (("told", config), ("untold", LoraConfig())):
        model = filled(get_peft_model(tiny_model("bert"), given)).eval()
        model.save_pretrained(tmp_path / name)
        again = PeftModel.from_pretrained(tiny_model("bert"), tmp_path / name)
        assert again.peft_config["default"].task_type == "FEATURE_EXTRACTION"
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_rows_are_sent_to_adapters_by_name(tiny_model: Build, ids: torch.Tensor) -> None:
    model = get_peft_model(tiny_model(), LoraConfig()).eval()
    model.add_adapter("prefix", PrefixTuningConfig(num_virtual_tokens=3))
    filled(model)
    with torch.no_grad():
        mixed = model(ids, adapter_names=["prefix", "__base__"]).logits
        generated = model.generate(ids, adapter_names=["prefix", "__base__"], max_new_tokens=3, do_sample=False)
        with model.disable_adapter():
            bare = model(ids).logits
            expected = model.generate(ids, max_new_tokens=3, do_sample=False)
        model.set_adapter("prefix")
        torch.testing.assert_close(mixed[0], model(ids).logits[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixed[1], bare[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(generated[1], expected[1])


def test_merging_and_what_is_refused_meanwhile(tiny_model: Build, ids: torch.Tensor) -> None:
    base = tiny_model()
    weights = {name: p.clone() for name, p in base.named_parameters()}
    model = filled(get_peft_model(base, LoraConfig()).eval())
    with torch.no_grad():
        live = model(ids).logits
        model.merge_adapter()
        torch.testing.assert_close(model(ids).logits, live, rtol=1e-4, atol=1e-4)
        with (
            pytest.raises(ConfigError, match="'default' is merged into the base; call unmerge_adapter first"),
            model.disable_adapter(),
        ):
            pass
        model.unmerge_adapter()
        assert all(torch.equal(p, weights[name]) for name, p in base.named_parameters())
        model.merge_adapter()
        bare = model.merge_and_unload()
        torch.testing.assert_close(bare(ids).logits, live, rtol=1e-4, atol=1e-4)
    assert bare is base
    assert model.peft_config == {}
    assert not isinstance(bare, PeftModel)


def test_an_unsafe_merge_leaves_everything_as_it_was(tiny_model: Build) -> None:
    base = tiny_model()
    weights = {name: p.clone() for name, p in base.named_parameters()}
    model = filled(get_peft_model(base, LoraConfig()), float("inf"))
    with pytest.raises(ConfigError, match="merging makes weights that are not finite"):
        model.merge_and_unload(safe_merge=True)
    assert all(torch.equal(p, weights[name]) for name, p in base.named_parameters())
    assert model.active_adapter == "default"
    with pytest.raises(ConfigError, match="progressbar=True is not supported"):
        model.merge_and_unload(progressbar=True)


def test_a_method_that_cannot_be_merged(tiny_model: Build) -> None:
    model = get_peft_model(tiny_model(), PrefixTuningConfig(num_virtual_tokens=3))
    with pytest.raises(ConfigError, match="changes activations, not weights"):
        model.merge_and_unload()


def test_saving_what_is_asked_for(tiny_model: Build, tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), LoraConfig())
    model.add_adapter("second", LoraConfig(r=2))
    model.save_pretrained(tmp_path / "one", selected_adapters=["second"])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["second"]
    model.save_pretrained(tmp_path / "none", is_main_process=False)
    assert not (tmp_path / "none").exists()
    model.save_pretrained(tmp_path / "both", state_dict=model.state_dict(), max_shard_size="50GB")
    assert (tmp_path / "both" / "adapter_config.json").is_file()
    assert (tmp_path / "both" / "second" / "petune.json").is_file()
    for arguments, name in (
        ({"safe_serialization": False}, "safe_serialization=False"),
        ({"save_embedding_layers": True}, "save_embedding_layers=True"),
        ({"path_initial_model_for_weight_conversion": "x"}, "path_initial_model_for_weight_conversion='x'"),
    ):
        with pytest.raises(ConfigError, match=name):
            model.save_pretrained(tmp_path / "not", **arguments)  # type: ignore[arg-type]


def test_pushing_sends_the_adapter_not_the_base(tiny_model: Build) -> None:
    model = get_peft_model(tiny_model(), LoraConfig())
    assert model.push_to_hub.__self__ is model  # its save_pretrained writes what is sent


def test_loading_into_an_adapter_that_is_there(tiny_model: Build, ids: torch.Tensor, tmp_path: Path) -> None:
    saved = filled(get_peft_model(tiny_model(), LoraConfig(r=2)).eval())
    saved.save_pretrained(tmp_path)
    model = get_peft_model(tiny_model(), LoraConfig(r=2))
    parameters = [id(p) for p in model.base_model.adapter("default").parameters()]
    model.load_adapter(tmp_path, "default")
    assert not model.training
    assert [id(p) for p in model.base_model.adapter("default").parameters()] == parameters
    with torch.no_grad():
        assert torch.equal(model(ids).logits, saved(ids).logits)
    other = get_peft_model(tiny_model(), LoraConfig(r=2, lora_alpha=99))
    with pytest.raises(ConfigError, match="other settings than 'default' has; load it under another name"):
        other.load_adapter(tmp_path, "default")


def test_loading_what_cannot_be_loaded(tiny_model: Build, tmp_path: Path) -> None:
    base = tiny_model()
    with pytest.raises(AdapterFormatError, match=r"has no adapter_config\.json"):
        PeftModel.from_pretrained(base, tmp_path)
    get_peft_model(tiny_model(), LoraConfig()).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="'torch_device' is not supported"):
        PeftModel.from_pretrained(base, tmp_path, torch_device="cpu")
    with pytest.raises(ConfigError, match="autocast_adapter_dtype=False is not supported"):
        PeftModel.from_pretrained(base, tmp_path, autocast_adapter_dtype=False)
    model = PeftModel.from_pretrained(base, tmp_path, "mine", revision=None, autocast_adapter_dtype=True)
    assert model.active_adapter == "mine"
    assert model.peft_type == "LORA"
    assert model.get_nb_trainable_parameters()[0] == 0


def test_adapters_come_and_go(tiny_model: Build) -> None:
    model = get_peft_model(tiny_model(), LoraConfig())
    model.add_adapter("second", LoraConfig(), low_cpu_mem_usage=False)
    with pytest.raises(ConfigError, match="low_cpu_mem_usage=True is not supported"):
        model.add_adapter("third", LoraConfig(), low_cpu_mem_usage=True)
    model.delete_adapter("default")
    assert model.active_adapter == "second"
    with pytest.raises(ConfigError, match="no adapter 'default' is attached"):
        model.set_adapter("default")


def test_a_model_without_a_tokenizer_says_so_where_text_is_asked_for(tiny_model: Build, tmp_path: Path) -> None:
    base = Base.from_model(tiny_model(), name="bare")
    assert not base.has_tokenizer
    with pytest.raises(
        BaseModelError, match=r"bare was wrapped without a tokenizer.*Base.from_model\(model, tokenizer\)"
    ):
        _ = AdaptedModel(base).tokenizer
    with pytest.raises(ConfigError, match="prompt_tuning_init_text needs the base's tokenizer"):
        create_adapter(base, "prompt_tuning", prompt_tuning_init="text", prompt_tuning_init_text="good")


def test_what_was_merged_into_a_packed_base_is_saved_plain(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, ids: torch.Tensor
) -> None:
    # LoRA beside the queries leaves all other linears packed, and transformers saves plain weights alone.
    sizes = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 96}
    LlamaForCausalLM(LlamaConfig(num_attention_heads=4, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "wide")
    tiny_tokenizer.save_pretrained(tmp_path / "wide")
    base = load_base(tmp_path / "wide", dtype="float32", device="cpu", quantization="8bit")
    model = filled(get_peft_model(base.model, LoraConfig(target_modules=["q_proj"])).eval())
    with torch.no_grad():
        live = model(ids).logits
        model.merge_and_unload().save_pretrained(tmp_path / "merged")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
        torch.testing.assert_close(loaded(ids).logits, live, rtol=1e-4, atol=1e-4)
