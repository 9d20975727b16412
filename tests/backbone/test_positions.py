"""Positions that a model gives by itself, found again."""

from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from petune.backbone.positions import default_positions, position_limit, positions_without_padding, require_positions
from petune.errors import ConfigError


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", "bert", "roberta", "xlm-roberta", "distilbert", "modernbert", "opt"]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_given_positions_change_nothing(
    side: str, architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model = tiny_model(architecture)
    ids = token_ids(2, 7)
    ids[1, slice(0, 2) if side == "left" else slice(5, 7)] = 0
    mask = (ids != 0).long()
    positions = default_positions(model, {"input_ids": ids, "attention_mask": mask})
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


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "bert", "roberta"])
def test_padding_takes_no_position(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, row = tiny_model(architecture), token_ids(1, 5)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), row], 1)
    mask = (padded != 0).long()
    positions = positions_without_padding(model, {"input_ids": padded, "attention_mask": mask})
    assert torch.equal(positions[:, 3:], default_positions(model, {"input_ids": row}))
    assert torch.equal(
        positions_without_padding(model, {"input_ids": row}), default_positions(model, {"input_ids": row})
    )
    behind, seen = padded.roll(-3), mask.roll(-3)
    assert torch.equal(
        positions_without_padding(model, {"input_ids": behind, "attention_mask": seen}),
        default_positions(model, {"input_ids": behind, "attention_mask": seen}),
    )
    logits = model(input_ids=padded, attention_mask=mask, position_ids=positions.clamp(min=0)).logits[:, 3:]
    torch.testing.assert_close(logits, model(input_ids=row).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "opt"])
def test_a_mask_counts_what_is_in_the_cache(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model, cache = tiny_model(architecture), DynamicCache()
    model(input_ids=token_ids(1, 4), past_key_values=cache)
    mask = torch.tensor([[0, 1, 1, 1, 1, 1]])
    call = {"input_ids": token_ids(1, 2), "past_key_values": cache, "attention_mask": mask}
    assert positions_without_padding(model, call).tolist() == [[3, 4]]
    assert default_positions(model, call).tolist() == [[3, 4] if architecture == "opt" else [4, 5]]
    short = {**call, "attention_mask": mask[:, 4:]}  # of the new tokens alone: it does not say what came before
    assert positions_without_padding(model, short).tolist() == [[4, 5]]


@pytest.mark.parametrize(("architecture", "limit"), [("gpt2", 128), ("roberta", 129), ("bart", 128), ("t5", None)])
def test_how_many_there_are(architecture: str, limit: int | None, tiny_model: Callable[..., PreTrainedModel]) -> None:
    assert position_limit(tiny_model(architecture)) == limit


def test_virtual_tokens_need_positions(tiny_model: Callable[..., PreTrainedModel]) -> None:
    require_positions(tiny_model("gpt2"), 128)
    require_positions(tiny_model("t5"), 4096)
    with pytest.raises(ConfigError, match="129 virtual tokens are more than the 128 positions that GPT2"):
        require_positions(tiny_model("gpt2"), 129)


@pytest.mark.parametrize("architecture", ["llama", "roberta"])
def test_the_modules_are_looked_through_once(
    architecture: str, tiny_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, walks = tiny_model(architecture), []
    named_modules = type(model).named_modules
    monkeypatch.setattr(type(model), "named_modules", lambda self: walks.append(self) or named_modules(self))
    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.int64)}
    for _ in range(2):
        default_positions(model, inputs)
        position_limit(model)
    assert len(walks) == 1
