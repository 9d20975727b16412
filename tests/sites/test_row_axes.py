"""Sub-modules that have tokens in front of rows: which ones they are, and that mixed rows keep to themselves there."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    FSMTConfig,
    FSMTForConditionalGeneration,
    LEDConfig,
    LEDForConditionalGeneration,
    LongformerConfig,
    LongformerForMaskedLM,
    PreTrainedModel,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import BaseModelError
from petune.sites.row_axes import rows_second

WIDTH, HEADS, ROWS = 32, 4, ["a", "b", None, "a"]
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
TWO_SIDES = {
    **{f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in (("layers", 1), ("ffn_dim", 48))},
    **{f"{side}_attention_heads": HEADS for side in ("encoder", "decoder")},
    "d_model": WIDTH,
    "init_std": 0.15,
    "decoder_start_token_id": 0,
}


def longformer() -> PreTrainedModel:
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 48}
    config = LongformerConfig(
        vocab_size=288, attention_window=[8, 8], max_position_embeddings=64, initializer_range=0.15, **shape, **TOKENS
    )
    return LongformerForMaskedLM(config)


def led() -> PreTrainedModel:
    positions = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64}
    return LEDForConditionalGeneration(
        LEDConfig(vocab_size=288, attention_window=[8], **positions, **TWO_SIDES, **TOKENS)
    )


def fsmt() -> PreTrainedModel:
    sizes = {"src_vocab_size": 288, "tgt_vocab_size": 288, "langs": ["en", "de"], "max_position_embeddings": 64}
    return FSMTForConditionalGeneration(FSMTConfig(**sizes, **TWO_SIDES, **TOKENS))


def xlnet() -> PreTrainedModel:
    shape = {"d_model": WIDTH, "n_layer": 2, "n_head": HEADS, "d_inner": 48, "initializer_range": 0.15}
    return XLNetForSequenceClassification(XLNetConfig(vocab_size=288, **shape, **TOKENS))


def base_of(make: Callable[[], PreTrainedModel]) -> Base:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Base.from_model(make().eval(), name=make.__name__)


@pytest.mark.parametrize(
    ("make", "second", "first"),
    [
        (longformer, ("self.query", "self.key_global"), ("output.dense", "word_embeddings")),
        (led, ("longformer_self_attn.value", "longformer_self_attn.query_global"), ("encoder_attn.q_proj", "fc1")),
        (fsmt, ("self_attn.q_proj", "encoder_attn.k_proj", "fc1"), ("embed_tokens", "output_projection")),
        (xlnet, ("word_embedding", "ff.layer_1"), ("logits_proj", "summary")),
    ],
)
def test_they_are_found(make: Callable[[], PreTrainedModel], second: tuple[str, ...], first: tuple[str, ...]) -> None:
    model = base_of(make).model.train()
    found = rows_second(model)
    for names, are_second in ((second, True), (first, False)):
        for name in names:
            paths = [path for path, _ in model.named_modules() if path.endswith(f".{name}") or path == name]
            assert paths, name
            assert {path in found for path in paths} == {are_second}, name
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "deberta-v2", "t5", "bart", "lfm2", "mamba"])
@pytest.mark.filterwarnings("ignore")  # of models that would rather have kernels of their own
def test_there_are_none_in_most_models(architecture: str, tiny_model: Callable[..., PreTrainedModel]) -> None:
    assert rows_second(tiny_model(architecture)) == frozenset()


@pytest.mark.parametrize(
    ("make", "method", "options"),
    [
        *((make, method, {}) for make in (longformer, led, fsmt, xlnet) for method in ("lora", "bitfit")),
        (longformer, "ia3", {}),
        (longformer, "bottleneck", {}),
        (xlnet, "bottleneck", {"adapter_input": "residual"}),
    ],
)
@torch.no_grad()
def test_mixed_rows_equal_the_rows_alone(
    make: Callable[[], PreTrainedModel],
    method: str,
    options: dict[str, str],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    base, ids = base_of(make), token_ids(len(ROWS), 8)
    adapters = [
        randomise(create_adapter(base, method, name=name, **options), seed=ord(name), scale=0.3) for name in "ab"
    ]
    model = AdaptedModel(base, adapters)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if base.task == "seq2seq_lm":
        inputs["decoder_input_ids"] = token_ids(len(ROWS), 6, seed=1)
    if "longformer" in make.__name__:
        inputs["global_attention_mask"] = torch.eye(len(ROWS), 8, dtype=torch.int64)
    with model.route(ROWS):
        mixed = model(**inputs).logits
    for place, name in enumerate(ROWS):
        with model.route([name]):
            alone = model(**{key: value[place : place + 1] for key, value in inputs.items()}).logits
        torch.testing.assert_close(mixed[place], alone[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_virtual_tokens_of_mixed_rows_stand_in_their_own(
    token_ids: Callable[..., torch.Tensor], randomise: Callable[..., Adapter]
) -> None:
    base, rows = base_of(xlnet), ["a", "b", "a"]
    prompt = {"num_virtual_tokens": 3, "placement": "append"}
    adapters = [randomise(create_adapter(base, "prompt_tuning", name=n, **prompt), seed=ord(n)) for n in "ab"]
    model, ids = AdaptedModel(base, adapters), token_ids(len(rows), 6)
    batch = model.insert_virtual_tokens({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, rows)
    with model.route(rows):
        mixed = model(**batch).logits
    for place, name in enumerate(rows):
        with model.route([name]):
            alone = model(**{key: value[place : place + 1] for key, value in batch.items()}).logits
        torch.testing.assert_close(mixed[place], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_an_encoder_without_a_table_that_is_known_has_no_virtual_tokens_in_its_input(method: str) -> None:
    with pytest.raises(BaseModelError, match="encoder of FSMTForConditionalGeneration is no model of its own"):
        create_adapter(base_of(fsmt), method)
