"""Positions of real tokens behind virtual ones: of padded rows, and of rows without virtual tokens beside them."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

PADDING = 3


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
