"""Which queries predict a token of the answer."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.sites.answers import predicts_answer


def test_from_the_last_token_before_the_answer() -> None:
    assert predicts_answer(torch.arange(5), 3, torch.tensor([3, 0, 5])).tolist() == [
        [False, False, True, True, True],
        [True] * 5,
        [False, False, False, False, True],
    ]


def test_tokens_in_a_cache_count() -> None:
    assert predicts_answer(torch.arange(4, 6), 1, torch.tensor([6])).tolist() == [[False, True]]
    assert predicts_answer(torch.arange(4, 6), 1, torch.tensor([4])).tolist() == [[True, True]]


def test_rows_that_beams_repeat() -> None:
    found = predicts_answer(torch.arange(3), 4, torch.tensor([3, 2]))
    assert found.tolist() == [[False, False, True]] * 2 + [[False, True, True]] * 2


def test_nobody_said_where_it_begins() -> None:
    with pytest.raises(ConfigError, match="nobody said where the answer begins"):
        predicts_answer(torch.arange(2), 1, None)


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "llama4_text"])
@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=str)
@torch.no_grad()
def test_caches_that_let_go_of_tokens_move_no_place(
    architecture: str,
    cache: dict[str, str],
    tiny_base: Callable[..., Base],
    token_ids: Callable[..., torch.Tensor],
    randomise: Callable[..., Adapter],
) -> None:
    window = "attention_chunk_size" if architecture == "llama4_text" else "sliding_window"
    base, ids = tiny_base(architecture, **{window: 8}), token_ids(2, 13)
    infix = create_adapter(base, "prefix_tuning", num_virtual_tokens=4, placement="infix")
    model = AdaptedModel(base, [randomise(infix, scale=0.3)])
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "return_dict_in_generate": True, **cache}
    with model.answers_from([12, 12]):
        written = model.model.generate(input_ids=ids, output_logits=True, **options)
        whole = model(input_ids=written.sequences[:, :-1], use_cache=False).logits[:, 12:]
    torch.testing.assert_close(torch.stack(written.logits, 1), whole, rtol=1e-4, atol=1e-4)
