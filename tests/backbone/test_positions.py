"""Positions that a model gives by itself, found again."""

from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from petune.backbone.positions import default_positions, position_limit


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", "bert", "roberta", "xlm-roberta", "distilbert", "modernbert"]
)
def test_given_positions_change_nothing(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model = tiny_model(architecture)
    ids = token_ids(2, 7)
    ids[1, 5:] = 0
    mask = (ids != 0).long()
    positions = default_positions(model, {"input_ids": ids})
    expected = model(input_ids=ids, attention_mask=mask).logits
    given = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(given[mask == 1], expected[mask == 1], rtol=1e-5, atol=1e-5)
    embeddings = model.get_input_embeddings()(ids[:1])
    given = model(inputs_embeds=embeddings, position_ids=default_positions(model, {"inputs_embeds": embeddings})).logits
    torch.testing.assert_close(given[0], expected[0], rtol=1e-5, atol=1e-5)


def test_positions_go_on_behind_a_cache(
    tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, cache = tiny_model("llama"), DynamicCache()
    model(input_ids=token_ids(1, 4), past_key_values=cache)
    assert default_positions(model, {"input_ids": token_ids(1, 2), "past_key_values": cache}).tolist() == [[4, 5]]


@pytest.mark.parametrize(("architecture", "limit"), [("gpt2", 128), ("roberta", 129), ("bart", 128), ("t5", None)])
def test_how_many_there_are(architecture: str, limit: int | None, tiny_model: Callable[..., PreTrainedModel]) -> None:
    assert position_limit(tiny_model(architecture)) == limit
