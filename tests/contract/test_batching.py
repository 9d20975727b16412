"""Contract 5: a row's output does not depend on its batch: padding, neighbours, and the neighbours' adapters."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base

LENGTHS = (11, 4, 7)
TOLERANCE = 1e-4


def pad(rows: list[torch.Tensor], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input ids and attention mask [B, T]."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


@pytest.fixture
def rows(token_ids: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
    return [token_ids(1, n, seed=n)[0] for n in LENGTHS]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_row_alone_equals_the_row_in_a_padded_batch(
    base: Base, method: str, side: str, rows: list[torch.Tensor], trained: Callable[..., AdaptedModel]
) -> None:
    model = trained(base, method)
    ids, mask = pad(rows, side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for i, row in enumerate(rows):
        alone = model(input_ids=row[None]).logits[0]
        torch.testing.assert_close(batch[i][mask[i].bool()], alone, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("decoder", ["llama", "gpt_neox", "opt"])  # bare, they do not mind where padding is
@pytest.mark.parametrize(
    "method", ["lora", "ia3", "bottleneck", "prompt_tuning", "p_tuning", "prefix_tuning", "p_tuning_v2"]
)
@torch.no_grad()
def test_padding_on_the_left_needs_no_positions(
    decoder: str,
    method: str,
    rows: list[torch.Tensor],
    tiny_base: Callable[..., Base],
    trained: Callable[..., AdaptedModel],
) -> None:
    model = trained(tiny_base(decoder), method)
    ids, mask = pad(rows, "left")
    batch = model(input_ids=ids, attention_mask=mask).logits
    for i, row in enumerate(rows):
        alone = model(input_ids=row[None]).logits[0]
        torch.testing.assert_close(batch[i][mask[i].bool()], alone, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_neighbours_and_their_adapters_do_not_matter(
    base: Base,
    sharing_method: str,
    rows: list[torch.Tensor],
    trained: Callable[..., AdaptedModel],
    randomise: Callable[..., Adapter],
) -> None:
    model = trained(base, sharing_method)
    other = create_adapter(base, sharing_method, name="other")
    model.attach(randomise(other, seed=7), active=False)
    alone = model(input_ids=rows[1][None]).logits[0]
    for neighbours in (["default", "default"], ["other", None], [None, ["other", "default"]]):
        ids, mask = pad(rows, "right")
        with model.route([neighbours[0], "default", neighbours[1]]):
            batch = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(batch[1, : len(rows[1])], alone, rtol=TOLERANCE, atol=TOLERANCE)
