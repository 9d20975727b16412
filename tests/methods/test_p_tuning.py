"""P-tuning: its encoders against PEFT's, its start, what is kept, PEFT's files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.p_tuning import PromptEncoder

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]
LSTM = {"encoder_reparameterization_type": "LSTM"}
ENCODERS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "narrow mlp": {"encoder_hidden_size": 9},
    "lstm": LSTM,
    "deep lstm": {**LSTM, "encoder_hidden_size": 7, "encoder_num_layers": 3, "encoder_dropout": 0.3},
    "shallow lstm": {**LSTM, "encoder_num_layers": 1},
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ENCODERS[request.param]


def peft_config(options: dict[str, Any], tokens: int) -> peft.PromptEncoderConfig:
    lstm = "encoder_reparameterization_type" in options
    return peft.PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=tokens,
        token_dim=32,
        num_transformer_submodules=1,
        encoder_reparameterization_type="LSTM" if lstm else "MLP",
        encoder_hidden_size=options.get("encoder_hidden_size", 16 if lstm else 32),
        encoder_num_layers=options.get("encoder_num_layers", 2),
    )


@torch.no_grad()
def test_encoders_compute_what_those_of_peft_compute(
    encoder: dict[str, Any], tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    adapter = randomise(create_adapter(tiny_base(), "p_tuning", num_virtual_tokens=6, **encoder))
    theirs = PromptEncoder(peft_config(encoder, 6))
    tensors = {name.removeprefix("source."): tensor for name, tensor in adapter.tensors().items()}
    tensors["embedding.weight"] = tensors.pop("embedding")
    theirs.load_state_dict(tensors)  # same names, same shapes, none missing
    kept = adapter.baked().tensors()
    assert list(kept) == ["source.prompt_embeddings"]
    torch.testing.assert_close(kept["source.prompt_embeddings"], theirs(torch.arange(6)), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_virtual_tokens_stand_in_front_of_the_input(
    encoder: dict[str, Any],
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    base, ids = tiny_base("gpt2"), token_ids(2, 7)
    adapter = randomise(create_adapter(base, "p_tuning", num_virtual_tokens=4, **encoder))
    prompt = adapter.baked().tensors()["source.prompt_embeddings"]
    embedded = torch.cat([prompt.expand(2, -1, -1), base.model.get_input_embeddings()(ids)], 1)
    expected = base.model(inputs_embeds=embedded).logits[:, 4:]
    torch.testing.assert_close(AdaptedModel(base, [adapter])(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_starts(encoder: dict[str, Any], tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    table = base.model.get_input_embeddings().weight

    def start(**options: Any) -> torch.Tensor:
        adapter = create_adapter(base, "p_tuning", num_virtual_tokens=4, **encoder, **options)
        return adapter.baked().tensors()["source.prompt_embeddings"]

    ids = base.tokenizer("abc", add_special_tokens=False)["input_ids"]
    text = start(prompt_init="text", prompt_init_text="abc")
    torch.testing.assert_close(text, table[[*ids, ids[0]]], rtol=1e-4, atol=1e-5)
    before = torch.get_rng_state()
    sampled = start()
    assert (sampled[:, None] - table).abs().amax(-1).amin(-1).max() < 1e-5
    assert torch.equal(start(), sampled)
    assert torch.equal(torch.get_rng_state(), before), "a start has a generator of its own"
    drawn = start(prompt_init="random")
    assert (drawn[:, None] - table).abs().amax(-1).amin() > 0.1


@torch.no_grad()
def test_training_again_does_not_start_from_what_was_kept(
    encoder: dict[str, Any], tmp_path: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base()
    adapter = randomise(create_adapter(base, "p_tuning", num_virtual_tokens=4, prompt_init="random", **encoder))
    folder = save_adapter(AdaptedModel(base, [adapter]), tmp_path)

    kept = load_adapter(folder, tiny_base())

    assert kept.config.model_dump()["encoder_reparameterization_type"] == "none"
    assert kept.trained_config == adapter.config
    assert kept.baked() is kept
    assert kept.num_parameters() == 4 * 32 < adapter.num_parameters()
    content = json.loads((folder / "petune.json").read_text())
    assert content["trained_config"] == adapter.config.model_dump(mode="json")
    saved_again = save_adapter(AdaptedModel(tiny_base(), [kept]), tmp_path / "again")
    assert json.loads((saved_again / "petune.json").read_text())["trained_config"] == content["trained_config"]
    assert "| prompt_init | `random` |" in (saved_again / "README.md").read_text()


@torch.no_grad()
def test_peft_reads_our_folder_and_we_read_theirs(
    encoder: dict[str, Any],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    ids, base = token_ids(2, 8), tiny_base()
    model = AdaptedModel(base, [randomise(create_adapter(base, "p_tuning", num_virtual_tokens=4, **encoder))])
    ours = model(input_ids=ids).logits
    save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_base().model, str(tmp_path / "ours")).eval()
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 4:]
    torch.testing.assert_close(logits, ours, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    expected = peft_config(encoder, 4)
    for name in ("encoder_reparameterization_type", "encoder_num_layers"):
        assert config[name] == getattr(expected, name)

    trained = peft.get_peft_model(tiny_base().model, peft_config(encoder, 4)).eval()
    trained.save_pretrained(tmp_path / "theirs")
    base = tiny_base()
    again = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    logits = trained(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 4:]
    torch.testing.assert_close(again(input_ids=ids).logits, logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_peft_s_files_may_name_a_dropout_without_effect(
    tiny_base: Callable[..., Base], tmp_path: Path, token_ids: Callable[..., torch.Tensor]
) -> None:
    config = peft_config({**LSTM, "encoder_num_layers": 1}, 4)
    peft.get_peft_model(tiny_base().model, config).save_pretrained(tmp_path)
    file, base = tmp_path / "adapter_config.json", tiny_base()
    file.write_text(json.dumps({**json.loads(file.read_text()), "encoder_dropout": 0.5}))
    assert AdaptedModel(base, [load_adapter(tmp_path, base)])(input_ids=token_ids(1, 3)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_init": "text"}, "prompt_init=text and prompt_init_text go together; give both or neither"),
        ({"prompt_init": "text", "prompt_init_text": "abc", "num_virtual_tokens": 2}, "prompt_init_text has 3 tokens"),
        ({"encoder_num_layers": 3}, "encoder_num_layers and encoder_dropout are the LSTM's"),
        ({"encoder_dropout": 0.1}, "set encoder_reparameterization_type=LSTM with them"),
        ({**LSTM, "encoder_num_layers": 1, "encoder_dropout": 0.1}, "encoder_num_layers is 1; give two layers or more"),
        ({"encoder_reparameterization_type": "GRU"}, "'MLP', 'LSTM' or 'none'"),
        ({"encoder_reparameterization_type": "none", "encoder_hidden_size": 8}, "there is none; leave it out"),
        ({"encoder_reparameterization_type": "none", "prompt_init": "random"}, "there is none; choose another"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "p_tuning", **options)
