import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)
from transformers.utils import logging as transformers_logging

from petune.backbone.loading import Loaded, load, quiet
from petune.backbone.sources import resolve
from petune.errors import ArtifactError, BaseModelError


def loaded(folder: Path, **options: object) -> Loaded:
    return load(resolve(folder), dtype=torch.float32, device=torch.device("cpu"), trust_remote_code=False, **options)


def configure(folder: Path, **changes: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_sharded(model: LlamaForCausalLM, save: Callable[..., Path]) -> None:
    got = loaded(save(model, max_shard_size="10KB"))
    assert len(got.weight_files) > 2
    for name, weight in got.model.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_encoder(save: Callable[..., Path]) -> None:
    config = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    folder = save(BertForMaskedLM(config))
    assert loaded(folder).task == "masked_lm"
    with pytest.raises(
        BaseModelError, match=r"of kind encoder \(bert\), which cannot be loaded for causal_lm; possible"
    ):
        loaded(folder, task="causal_lm")


def test_encoder_decoder(save: Callable[..., Path]) -> None:
    sizes = {
        f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")
    }
    config = BartConfig(vocab_size=60, d_model=16, **sizes, forced_eos_token_id=None)
    assert loaded(save(BartForConditionalGeneration(config))).task == "seq2seq_lm"


def test_model_saved_without_its_language_model_head(model: LlamaForCausalLM, save: Callable[..., Path]) -> None:
    with pytest.raises(ArtifactError, match=r"lack 1 of its tensors, such as lm_head.weight"):
        loaded(save(LlamaForSequenceClassification(model.config)), task="causal_lm")


@pytest.mark.parametrize(
    ("file", "content", "error", "message"),
    [
        (
            "model.safetensors",
            b"\xff" * 400,
            ArtifactError,
            r"the weights of .* are damaged \(.*header.*copy it again",
        ),
        ("model.safetensors", b"", ArtifactError, r"the weights of .* are damaged"),
        ("config.json", b"{", ArtifactError, r"files of .* do not fit together .*not a valid JSON"),
        (
            "tokenizer.json",
            b"{",
            BaseModelError,
            r"the tokenizer of .* cannot be loaded: .*; a base model is",
        ),
    ],
)
def test_damaged_file(file: str, content: bytes, error: type[Exception], message: str, folder: Path) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(error, match=message):
        loaded(folder)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"num_hidden_layers": 3},
            ArtifactError,
            r"lack 9 of its tensors, such as model.layers.2.input_layernorm",
        ),
        ({"intermediate_size": 64}, ArtifactError, r"files of .* do not fit together"),
        ({"model_type": "nope"}, BaseModelError, r"cannot be loaded: .*`nope`"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}},
            BaseModelError,
            r"runs code of its own; .* --trust-remote-code",
        ),
    ],
)
def test_configuration_that_does_not_fit(
    changes: dict[str, object], error: type[Exception], message: str, folder: Path
) -> None:
    with pytest.raises(error, match=message):
        loaded(configure(folder, **changes))


def test_missing_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(BaseModelError, match=r"the tokenizer of .* cannot be loaded"):
        loaded(folder)


def test_quiet_silences_and_restores(capfd: pytest.CaptureFixture[str]) -> None:
    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled())
    with quiet():
        warnings.warn("not heard", stacklevel=1)
        logging.getLogger("transformers").warning("not heard")
        list(transformers_logging.tqdm(range(3)))
    assert capfd.readouterr().err == ""
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_loading_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded(folder)
    assert capfd.readouterr() == ("", "")
