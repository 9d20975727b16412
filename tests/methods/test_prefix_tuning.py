"""Prefix tuning: the formula, its start, PEFT's files."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import ConfigError, DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]


def caching(base: Base, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the last six tokens, the first four being given as a K/V cache."""
    cache = base.model(input_ids=ids[:, :4], use_cache=True).past_key_values
    return base.model(input_ids=ids[:, 4:], past_key_values=cache).logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@torch.no_grad()
def test_keys_and_values_of_tokens_act_like_those_tokens(
    architecture: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base = tiny_base(architecture)
    text = "abcd"
    prefix = base.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([prefix.expand(2, -1), token_ids(2, 6)], 1)
    expected = caching(base, ids)
    model = AdaptedModel(
        base, [create_adapter(base, "prefix_tuning", num_virtual_tokens=4, prefix_init="text", prefix_init_text=text)]
    )
    torch.testing.assert_close(model(input_ids=ids[:, 4:]).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_start_without_a_text_has_the_scale_of_the_base(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    adapter = create_adapter(base, "prefix_tuning", num_virtual_tokens=100)
    layers = base.structure.attentions
    keys = [adapter.tensors()[f"{a.path}.keys"] for a in layers]
    assert [k.shape for k in keys] == [(2, 100, 8)] * len(layers)
    ids = torch.arange(3, 283)[None]
    cache = base.model(input_ids=ids[:, :100], use_cache=True).past_key_values
    for layer, start in enumerate(keys):
        assert start.std().item() == pytest.approx(cache.layers[layer].keys.std().item(), rel=0.2)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_peft_reads_our_folder_and_we_read_theirs(
    architecture: str,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    ids = token_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    seen = mask.bool()
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=5))])
    ours = model(input_ids=ids, attention_mask=mask).logits[seen]
    save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, str(tmp_path / "ours")).eval()
    torch.testing.assert_close(theirs(input_ids=ids, attention_mask=mask).logits[seen], ours, rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    base = tiny_base(architecture)
    again = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    torch.testing.assert_close(again(input_ids=ids, attention_mask=mask).logits[seen], ours, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_prefix_that_peft_made_with_a_projection_is_read(
    tmp_path: Path, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(2, 8)
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=16
    )
    theirs = peft.get_peft_model(tiny_base().model, config).eval()
    theirs.save_pretrained(tmp_path)
    base = tiny_base()
    model = AdaptedModel(base, [load_adapter(tmp_path, base)])
    expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_more_tokens_than_positions(tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]) -> None:
    base = tiny_base("gpt2")
    model = AdaptedModel(base, [create_adapter(base, "prefix_tuning", num_virtual_tokens=100)])
    with pytest.raises(DataError, match="40 tokens and 100 virtual tokens are more than the model's 128 positions"):
        model(input_ids=token_ids(1, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prefix_init": "text"}, "go together"),
        (
            {"prefix_init": "text", "prefix_init_text": "abc", "num_virtual_tokens": 2},
            "prefix_init_text has 3 tokens, num_virtual_tokens is 2",
        ),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "prefix_tuning", **options)
