"""Prompt tuning: equal to concatenated embeddings, its starts, its settings, PEFT's files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import BaseModelError, ConfigError
from petune.evaluation.generate import generate
from petune.evaluation.options import GenerationOptions
from petune.sites.embeddings import EmbeddingSource

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file in tiny:UserWarning"),
]


@pytest.mark.filterwarnings("ignore")  # of models that would rather have kernels of their own
@pytest.mark.parametrize("architecture", ["lfm2", "mamba", "minimax", "gemma4_text"])
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
@torch.no_grad()
def test_stands_in_the_rows_where_attentions_are_not_all(
    architecture: str,
    method: str,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 9)
    adapter = randomise(create_adapter(base, method, num_virtual_tokens=3))
    model = AdaptedModel(base, [adapter])
    assert isinstance(adapter.source, EmbeddingSource)
    batch = model.insert_virtual_tokens({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    ours = model(**batch).logits[:, 3:]
    if base.structure.embeds_once:
        bare = tiny_base(architecture).model
        embedded = adapter.source.embeddings().expand(2, -1, -1), bare.get_input_embeddings()(ids)
        expected = bare(inputs_embeds=torch.cat(embedded, 1)).logits[:, 3:]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)

    options = GenerationOptions(max_new_tokens=6)
    prompts = ["a prompt of some length", "b"]
    assert generate(model, prompts, options) == [generate(model, [prompt], options)[0] for prompt in prompts]
    save_adapter(model, tmp_path)
    other = tiny_base(architecture)
    again = AdaptedModel(other, [load_adapter(tmp_path, other)])
    torch.testing.assert_close(again(**batch).logits[:, 3:], ours)


@pytest.mark.parametrize(
    "architecture", ["llama", "gemma", "glm", "phi", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "llama4_text"]
)
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


SCALING = [("llama", {}), ("gemma", {}), ("bart", {"scale_embedding": True})]
"""Bases, the last two with embeddings that multiply what they look up by a factor."""


def looked_up(base: Base) -> torch.Tensor:
    """Return what the base makes of each token of its vocabulary [V, d], the factor of its embeddings included."""
    model = base.model.get_encoder() if base.model.config.is_encoder_decoder else base.model
    table = model.get_input_embeddings()
    return table(torch.arange(table.num_embeddings))


@pytest.mark.parametrize(("architecture", "changes"), SCALING)
@torch.no_grad()
def test_starts(architecture: str, changes: dict[str, bool], tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture, max_position_embeddings=1024, **changes)
    table = looked_up(base)

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
    for bound in (None, 0.1):
        even = start(prompt_tuning_init="random_uniform", prompt_tuning_init_range=bound, num_virtual_tokens=1000)
        assert even.abs().max().item() == pytest.approx(bound or 0.5, rel=1e-3)
        assert even.std().item() == pytest.approx((bound or 0.5) / 3**0.5, rel=0.02)
    assert not torch.equal(start(), create_adapter(base, "prompt_tuning", seed=7).tensors()["source.prompt_embeddings"])


@pytest.mark.parametrize(("architecture", "changes"), SCALING)
@torch.no_grad()
def test_class_labels_begin_as_the_mean_of_their_tokens(
    architecture: str, changes: dict[str, bool], tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture, **changes)
    table = looked_up(base)
    labels = ("good", "bad")
    options = {"prompt_tuning_init": "class_labels", "prompt_tuning_init_labels": labels, "num_virtual_tokens": 6}
    start = create_adapter(base, "prompt_tuning", **options).tensors()["source.prompt_embeddings"]
    for row, label in zip(start, labels, strict=False):
        ids = base.tokenizer(label, add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(row, sum(table[i] for i in ids) / len(ids))
    assert all((row == table).all(1).any() for row in start[2:])
    with pytest.raises(ConfigError, match=r"names 2 labels, num_virtual_tokens is 1: .*set num_virtual_tokens=2"):
        create_adapter(base, "prompt_tuning", **{**options, "num_virtual_tokens": 1})
    with pytest.raises(ConfigError, match="has a label without a token: ''; leave it out"):
        create_adapter(base, "prompt_tuning", **{**options, "prompt_tuning_init_labels": ("good", "")})


@pytest.mark.parametrize("architecture", ["llama", "gemma"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prompt_tuning", {"prompt_tuning_init": "text", "prompt_tuning_init_text": "a film"}),
        ("p_tuning", {"prompt_init": "text", "prompt_init_text": "a film"}),
    ],
)
@torch.no_grad()
def test_a_prompt_that_starts_as_a_text_is_that_text_in_front(
    architecture: str,
    method: str,
    options: dict[str, str],
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 7)
    text = torch.tensor(base.tokenizer("a film", add_special_tokens=False)["input_ids"])
    expected = base.model(torch.cat([text.expand(2, -1), ids], 1)).logits[:, len(text) :]
    model = AdaptedModel(base, [create_adapter(base, method, num_virtual_tokens=len(text), **options)])
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_file_is_a_start(suffix: str, tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    wanted = torch.randn(5, 32)
    path = write_tensor(tmp_path / f"start{suffix}", wanted.to(torch.float64 if suffix == ".npy" else torch.float32))
    options = {"prompt_tuning_init": "file", "prompt_tuning_init_file": str(path), "num_virtual_tokens": 5}
    base = tiny_base()
    model = AdaptedModel(base, [create_adapter(base, "prompt_tuning", **options)])
    assert torch.equal(model.adapter("default").tensors()["source.prompt_embeddings"], wanted)

    folder = save_adapter(model, tmp_path / "adapter")
    path.unlink()  # what it started from is not asked for again
    assert torch.equal(load_adapter(folder, tiny_base()).tensors()["source.prompt_embeddings"], wanted)


def write_tensor(path: Path, tensor: torch.Tensor) -> Path:
    if path.suffix == ".npy":
        np.save(path, tensor.numpy())
    else:
        save_file({"prompt": tensor}, path)
    return path


def test_a_file_that_cannot_be_a_start(tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()

    def start(path: Path) -> None:
        options = {"prompt_tuning_init": "file", "prompt_tuning_init_file": str(path), "num_virtual_tokens": 5}
        create_adapter(base, "prompt_tuning", **options)

    for name, tensor, message in (
        ("short.npy", torch.zeros(4, 32), r"holds \[4, 32\], expected one matrix .*\[5, 32\]"),
        ("narrow.safetensors", torch.zeros(5, 31), r"holds \[5, 31\]"),
        ("whole.npy", torch.zeros(5, 32, dtype=torch.int64), r"not of floating-point numbers"),
        ("nan.npy", torch.full((5, 32), torch.nan), "holds NaN or infinite values"),
    ):
        with pytest.raises(ConfigError, match=message):
            start(write_tensor(tmp_path / name, tensor))
    save_file({"a": torch.zeros(5, 32), "b": torch.zeros(5, 32)}, tmp_path / "two.safetensors")
    with pytest.raises(ConfigError, match=r"holds \[5, 32\], \[5, 32\], expected one matrix"):
        start(tmp_path / "two.safetensors")
    with pytest.raises(ConfigError, match=r"give a \.safetensors or \.npy file"):
        start(tmp_path / "start.bin")
    with pytest.raises(ConfigError, match="cannot be read"):
        start(tmp_path / "absent.npy")
    for name in ("torn.npy", "torn.safetensors"):
        write_tensor(tmp_path / name, torch.zeros(5, 32))
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
        with pytest.raises(ConfigError, match="cannot be read"):
            start(tmp_path / name)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(ConfigError, match="cannot be read"):
        start(tmp_path / "objects.npy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompt_tuning_init": "text", "prompt_tuning_init_text": "abcdef", "num_virtual_tokens": 5},
            r"prompt_tuning_init_text has 6 tokens, num_virtual_tokens is 5.*set num_virtual_tokens=6",
        ),
        ({"prompt_tuning_init": "text", "prompt_tuning_init_text": ""}, "is empty; give a text"),
        ({"prompt_tuning_init": "text"}, "go together; give both or neither"),
        ({"prompt_tuning_init": "class_labels"}, "class_labels and prompt_tuning_init_labels go together"),
        ({"prompt_tuning_init": "class_labels", "prompt_tuning_init_labels": ()}, "at least 1 item"),
        ({"prompt_tuning_init": "file"}, "file and prompt_tuning_init_file go together"),
        ({"prompt_tuning_init_range": 0.5}, "random_uniform and prompt_tuning_init_range go together"),
        ({"num_virtual_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "prompt_tuning", **options)


def test_a_model_without_the_attention_interface_is_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("gptj")
    former = base.model.config._attn_implementation
    with pytest.raises(BaseModelError, match="GPTJForCausalLM does not use transformers' attention interface"):
        create_adapter(base, "prompt_tuning")
    assert base.model.config._attn_implementation == former


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
