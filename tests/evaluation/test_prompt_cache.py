"""Prompts read in batches of like lengths give what one padded batch gives."""

import pytest
import torch

from petune.data.batching import collate
from petune.data.encoding import IGNORED, Encoded
from petune.evaluation.generate import generate
from petune.evaluation.options import GenerationOptions
from petune.evaluation.prompt_cache import prompt_cache
from petune.sites.routing import Route, Routing

LENGTHS = [70, 4, 66, 5, 3]
PROMPTS = [[1 + (7 * row + place) % 200 for place in range(length)] for row, length in enumerate(LENGTHS)]


def test_it_is_the_cache_of_one_padded_batch_without_the_padding_being_read(runner) -> None:
    rows = [Encoded(ids[:-1], [IGNORED] * (len(ids) - 1), "") for ids in PROMPTS]
    batch = collate(rows, pad_token_id=0, side="left", device=torch.device("cpu"))
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    read: list[int] = []
    with torch.inference_mode():
        expected = runner.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}, position_ids=positions)
        hook = runner.model.get_input_embeddings().register_forward_hook(lambda m, i, o: read.append(i[0].numel()))
        cache = prompt_cache(runner, PROMPTS)
        hook.remove()
    assert cache is not None
    assert sum(read) == 2 * 69 + 3 * 4
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(cache.layers, expected.past_key_values.layers, strict=True):
        for name in ("keys", "values"):
            mine, its = (getattr(layer, name).transpose(1, 2)[real] for layer in (ours, theirs))
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompts", [[[1] * 9, [2] * 8], [[1] * 90, [2]]])
def test_prompts_that_are_alike_or_of_one_token_are_left_to_be_read_at_once(runner, prompts: list[list[int]]) -> None:
    cache = prompt_cache(runner, prompts)
    assert cache is not None
    assert cache.get_seq_length() == 0


def test_virtual_tokens_behind_the_prompts_are_not_parted_from_them(runner) -> None:
    virtual = runner.model.get_input_embeddings().weight.shape[0]
    cache = prompt_cache(runner, [[*ids, virtual] for ids in PROMPTS])
    assert cache is not None
    assert cache.get_seq_length() == 0


def test_rows_read_apart_keep_their_own_stacks(runner) -> None:
    routing, seen = Routing.of(runner.model), []
    stacks = [("a",), (), ("b",), ("a", "b"), ()]
    hook = runner.model.register_forward_pre_hook(lambda module, inputs: seen.append(routing.route))
    with torch.inference_mode(), routing.use(Route.of(stacks)):
        prompt_cache(runner, PROMPTS)
    hook.remove()
    # Longest first: rows 0 and 2, then 3, 1 and 4.
    found = [{group.stack: group.rows.tolist() for group in route.groups} for route in seen]
    assert found == [{("a",): [0], ("b",): [1]}, {("a", "b"): [0], (): [1, 2]}]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "seed": 3}, {"num_beams": 2}])
def test_texts_are_those_of_rows_alone(runner, settings: dict[str, float]) -> None:
    prompts = ["green hills " * 6, "dull", "the river rises in the hills and " * 2, "a film"]
    options = GenerationOptions(max_new_tokens=10, **settings)
    alone = [generate(runner, [prompt], options, first_row=row)[0] for row, prompt in enumerate(prompts)]
    assert generate(runner, prompts, options) == alone
