import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base, load_base
from petune.checkpoint.folder import save_adapter
from petune.checkpoint.merged import save_merged
from petune.errors import ConfigError, OutputFolderError


@pytest.fixture
def adapted(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> Callable[[str, str], AdaptedModel]:
    """Build a base with a random adapter: ``adapted("llama", "lora")``."""

    def build(architecture: str, method: str) -> AdaptedModel:
        base = tiny_base(architecture)
        return AdaptedModel(base, [randomise(create_adapter(base, method))])

    return build


def logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(input_ids=ids).logits
    return output


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_folder_is_a_plain_model_with_the_adapter_s_logits(
    architecture: str,
    method: str,
    adapted: Callable[[str, str], AdaptedModel],
    token_ids: Callable[..., Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, ids = adapted(architecture, method), token_ids(2, 9)
    expected = logits(model.model, ids)
    folder = save_merged(model, tmp_path / "merged")
    assert capsys.readouterr().err == ""
    merged = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(merged, ids), expected, atol=1e-4, rtol=0)
    assert torch.equal(logits(model.model, ids), expected), "the adapter lives on as it was"
    model.detach("default")
    assert not torch.allclose(logits(model.model, ids), expected, atol=1e-2)
    assert AutoTokenizer.from_pretrained(folder).decode([70, 71]) == model.tokenizer.decode([70, 71])


def test_two_active_adapters_are_both_merged(
    adapted: Callable[[str, str], AdaptedModel],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., Tensor],
    tmp_path: Path,
) -> None:
    model, ids = adapted("llama", "lora"), token_ids(2, 9)
    model.attach(randomise(create_adapter(model.base, "lora", name="second"), seed=2))
    model.activate("default", "second")
    expected = logits(model.model, ids)
    merged = AutoModelForCausalLM.from_pretrained(save_merged(model, tmp_path / "merged")).eval()
    torch.testing.assert_close(logits(merged, ids), expected, atol=1e-4, rtol=0)
    assert torch.equal(logits(model.model, ids), expected)


def test_a_folder_that_is_in_use_is_left_alone(adapted: Callable[[str, str], AdaptedModel], tmp_path: Path) -> None:
    model = adapted("llama", "lora")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputFolderError, match=r"exists already; give another --output-dir, or --overwrite"):
        save_merged(model, tmp_path)
    with pytest.raises(OutputFolderError, match=r"notes.txt is a file; give a folder with --output-dir"):
        save_merged(model, tmp_path / "notes.txt", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_overwriting_leaves_no_stale_shard(adapted: Callable[[str, str], AdaptedModel], tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_text("old")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "gone"}}))
    folder = save_merged(adapted("llama", "lora"), tmp_path, overwrite=True)
    assert [path.name for path in folder.glob("model*")] == ["model.safetensors"]
    AutoModelForCausalLM.from_pretrained(folder)


def test_the_base_s_own_folder_is_refused(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    base = load_base(tmp_path, dtype="float32")
    model = AdaptedModel(base, [create_adapter(base, "lora")])
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(OutputFolderError, match=r"is the base model's own folder; give another --output-dir"):
        save_merged(model, tmp_path, overwrite=True)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_an_adapter_s_folder_is_refused(adapted: Callable[[str, str], AdaptedModel], tmp_path: Path) -> None:
    model = adapted("llama", "lora")
    folder = save_adapter(model, tmp_path / "adapter")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputFolderError, match=r"holds an adapter, which would be applied to the merged model again"):
        save_merged(model, folder, overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("method", ["bottleneck", "llama_adapter", "prefix_tuning", "prompt_tuning"])
def test_what_adds_to_activations_cannot_be_merged(
    method: str, adapted: Callable[[str, str], AdaptedModel], token_ids: Callable[..., Tensor], tmp_path: Path
) -> None:
    model, ids = adapted("llama", method), token_ids(1, 5)
    expected = logits(model.model, ids)
    with pytest.raises(ConfigError, match=r"so it cannot be merged"):
        save_merged(model, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert torch.equal(logits(model.model, ids), expected)


def test_nothing_active_is_an_error(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter is active: there is nothing to merge"):
        save_merged(AdaptedModel(tiny_base("llama")), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
