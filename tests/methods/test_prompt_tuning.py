"""Prompt tuning: equal to concatenated embeddings, its starts, its settings, PEFT's files."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import BaseModelError, ConfigError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("length", [1, 7])
def test_equals_embeddings_put_in_front_and_so_do_its_gradients(
    architecture: str, length: int, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(architecture), token_ids(3, 9)
    mask = torch.ones_like(ids)
    mask[1, -4:] = 0
    adapter = create_adapter(base, "prompt_tuning", num_virtual_tokens=length)
    start = adapter.tensors()["source.prompt_embeddings"].clone()

    prompt = start.clone().requires_grad_()
    embedded = torch.cat([prompt.expand(3, -1, -1), base.model.get_input_embeddings()(ids)], 1)
    longer = torch.cat([mask.new_ones(3, length), mask], 1)
    expected = base.model(inputs_embeds=embedded, attention_mask=longer).logits[:, length:]
    expected[mask.bool()].square().sum().backward()

    adapter.set_trainable(True)
    actual = AdaptedModel(base, [adapter])(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(actual[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)
    actual[mask.bool()].square().sum().backward()
    (gradient,) = (p.grad for p in adapter.parameters())
    assert (gradient - prompt.grad).norm() / prompt.grad.norm() < 1e-4


@torch.no_grad()
def test_starts(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    table = base.model.get_input_embeddings().weight

    def start(**options: object) -> torch.Tensor:
        return create_adapter(base, "prompt_tuning", **options).tensors()["source.prompt_embeddings"]

    ids = base.tokenizer("abc", add_special_tokens=False)["input_ids"]
    text = start(prompt_tuning_init="text", prompt_tuning_init_text="abc", num_virtual_tokens=5)
    assert torch.equal(text, table[[*ids, *ids[:2]]])
    sampled = start(num_virtual_tokens=12)
    assert all((row == table).all(1).any() for row in sampled)
    assert len(sampled.unique(dim=0)) == 12
    longer_than_the_vocabulary = start(num_virtual_tokens=300)
    assert longer_than_the_vocabulary.shape == (300, 32)
    drawn = start(prompt_tuning_init="random", num_virtual_tokens=1000)
    assert drawn.std().item() == pytest.approx(table.std().item(), rel=0.1)
    assert not torch.equal(start(), create_adapter(base, "prompt_tuning", seed=7).tensors()["source.prompt_embeddings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompt_tuning_init": "text", "prompt_tuning_init_text": "abcdef", "num_virtual_tokens": 5},
            r"prompt_tuning_init_text has 6 tokens, num_virtual_tokens is 5.*set num_virtual_tokens=6",
        ),
        ({"prompt_tuning_init": "text", "prompt_tuning_init_text": ""}, "is empty; give a text"),
        ({"prompt_tuning_init": "text"}, "go together; give both or neither"),
        ({"num_virtual_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "prompt_tuning", **options)


def test_a_model_without_the_attention_interface_is_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("bloom")
    adapter = create_adapter(base, "prompt_tuning")
    with pytest.raises(BaseModelError, match="BloomForCausalLM does not use transformers' attention interface"):
        AdaptedModel(base, [adapter])
    assert base.model.config._attn_implementation == "eager"


@torch.no_grad()
def test_peft_reads_our_folder_and_we_read_theirs(
    tmp_path: Path, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids = token_ids(2, 8)
    model = AdaptedModel(tiny_base(), [create_adapter(tiny_base(), "prompt_tuning", num_virtual_tokens=4)])
    ours = model(input_ids=ids).logits
    save_adapter(model, tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny_base().model, str(tmp_path / "ours")).eval()
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 4:]
    torch.testing.assert_close(logits, ours, rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    base = tiny_base()
    again = AdaptedModel(base, [load_adapter(tmp_path / "theirs", base)])
    torch.testing.assert_close(again(input_ids=ids).logits, ours, rtol=1e-4, atol=1e-4)
