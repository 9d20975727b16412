"""Positions of real tokens behind virtual ones: of padded rows, and of rows without virtual tokens beside them."""

from collections.abc import Callable

import pytest
import torch
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

PADDING = 3


def t5gemma() -> Base:
    """Return a random encoder-decoder whose encoder takes positions."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    part = {**shape, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 288, "initializer_range": 0.15}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
    config = T5GemmaConfig(encoder=part | tokens, decoder=part | tokens, initializer_range=0.15, **tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Base.from_model(T5GemmaForConditionalGeneration(config).eval(), name="tiny-t5gemma")


def padded(row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask [1, 3 + T] of a row [1, T] behind padding."""
    ids = torch.cat([row.new_zeros(1, PADDING), row], 1)
    return ids, (torch.arange(ids.shape[1]) >= PADDING)[None].long()


@pytest.fixture
def model(
    architecture: str, method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> AdaptedModel:
    base = tiny_base(architecture)
    return AdaptedModel(base, [randomise(create_adapter(base, method, num_virtual_tokens=4))])


DECODERS = pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gpt_neox"])
METHODS = pytest.mark.parametrize("method", ["prefix_tuning", "prompt_tuning"])


@DECODERS
@METHODS
@torch.no_grad()
def test_padding_stands_before_the_virtual_tokens(model: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    row = token_ids(1, 6)
    ids, mask = padded(row)
    alone = model(input_ids=row).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[:, PADDING:], alone)
    first = model(input_ids=ids[:, :6], attention_mask=mask[:, :6], use_cache=True)
    later = model(input_ids=ids[:, 6:], attention_mask=mask, past_key_values=first.past_key_values).logits
    torch.testing.assert_close(later, alone[:, 3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama"])
@METHODS
@torch.no_grad()
def test_a_mask_given_by_place_counts_too(model: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids, mask = padded(token_ids(1, 6))
    torch.testing.assert_close(model.model(ids, mask).logits, model(input_ids=ids, attention_mask=mask).logits)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("method", ["prefix_tuning"])
@torch.no_grad()
def test_so_it_does_in_encoders(model: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    row = token_ids(1, 6)
    ids, mask = padded(row)
    alone = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[:, PADDING:], alone)


@DECODERS
@METHODS
@torch.no_grad()
def test_rows_without_virtual_tokens_are_the_bare_base_s(
    model: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    row = token_ids(1, 6)
    ids, mask = (part.repeat(2, 1) for part in padded(row))
    with model.route([None, None]):
        bare = model(input_ids=ids, attention_mask=mask).logits[1, PADDING:]
    with model.route(["default", None]):
        mixed = model(input_ids=ids, attention_mask=mask).logits[:, PADDING:]
    torch.testing.assert_close(mixed[0], model(input_ids=row).logits[0])
    torch.testing.assert_close(mixed[1], bare)


@torch.no_grad()
def test_rotary_embeddings_turn_them_as_the_row_behind_them(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., torch.Tensor]
) -> None:
    scaling = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0, 6.0, 8.0, 10.0]}
    base = tiny_base("llama", rope_parameters={**scaling, **factors}, max_position_embeddings=256)
    adapter = randomise(create_adapter(base, "prompt_tuning", num_virtual_tokens=4), scale=0.3)
    model, passes = AdaptedModel(base, [adapter]).eval(), []
    prompt, table = adapter.tensors()["source.prompt_embeddings"], base.model.get_input_embeddings()
    base.model.model.norm.register_forward_hook(lambda _, __, output: passes.append(output.shape[1]))
    for tokens in (20, 28, 29, 40, 20):
        ids = token_ids(1, tokens)
        found = model(input_ids=ids).logits
        with model.route([None]):
            expected = model(inputs_embeds=torch.cat([prompt[None], table(ids)], 1)).logits[:, 4:]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert [count for count in passes if count < 20] == [4, 5, 4], "once for short rows, and once for long ones"


@pytest.mark.parametrize("architecture", ["t5", "bart", "t5gemma"])
@pytest.mark.parametrize("projection", [True, False])
@torch.no_grad()
def test_an_encoder_that_generation_calls_by_itself_has_them_as_in_training(
    architecture: str,
    projection: bool,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base = t5gemma() if architecture == "t5gemma" else tiny_base(architecture)
    adapter = create_adapter(base, "prefix_tuning", num_virtual_tokens=3, prefix_projection=projection)
    model, ids = AdaptedModel(base, [adapter]), token_ids(2, 6)
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True}
    for _ in range(2):
        written = model.model.generate(input_ids=ids, output_logits=True, **options)
        whole = model(input_ids=ids, decoder_input_ids=written.sequences[:, :-1]).logits
        torch.testing.assert_close(torch.stack(written.logits, 1), whole, rtol=1e-4, atol=1e-4)
        randomise(adapter)


def test_what_a_pass_of_an_encoder_decoder_needs_is_computed_once(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base("t5"), token_ids(1, 6)
    adapter = create_adapter(base, "prefix_tuning", num_virtual_tokens=3, prefix_projection=True)
    model, passes = AdaptedModel(base, [adapter]), []
    assert adapter.source is not None
    adapter.source.register_forward_hook(lambda *_: passes.append(1))
    model(input_ids=ids, decoder_input_ids=ids)
    assert passes == [1]
