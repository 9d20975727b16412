"""Contracts 5 and 7 on every family of decoders, with every method: rows, caches, recomputed activations.

A batch holds rows of the method, of neighbours by two other methods, and of the base alone.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.arguments import takes
from petune.backbone.base import Base
from petune.evaluation.generate import _generate_batch, generating
from petune.evaluation.options import GenerationOptions
from petune.training.recomputation import gradient_checkpointing

ROOT = Path(__file__).parents[2]
ROWS = ("default", "low-rank", None, ["low-rank", "default"], "prefix", "default")
LENGTHS = (9, 9, 6, 4, 9, 5)
UNLIKE_LENGTHS = (70, 5, 68, 3, 4, 66)
"""So unlike that the prompts are read in two batches."""
GREEDY: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture
def mixed(
    decoder: str, sharing_method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> AdaptedModel:
    """A base with an adapter of the method, and one of two others each."""
    base = tiny_base(decoder)
    adapters = [
        create_adapter(base, sharing_method),
        create_adapter(base, "lora", name="low-rank", r=3, target_modules="attention"),
        create_adapter(base, "prefix_tuning", name="prefix", num_virtual_tokens=3),
    ]
    return AdaptedModel(base, [randomise(adapter, seed=i) for i, adapter in enumerate(adapters)])


def batch(model: AdaptedModel, ids: torch.Tensor, side: str) -> dict[str, torch.Tensor]:
    """Return rows of several lengths, padded on one side."""
    places, lengths = torch.arange(ids.shape[1]), torch.tensor(LENGTHS)[:, None]
    mask = (places >= ids.shape[1] - lengths if side == "left" else places < lengths).long()
    inputs = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    if takes(model.model, "position_ids"):
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return inputs


def test_they_are_the_decoders_of_the_documentation(decoders: tuple[str, ...]) -> None:
    lines = (ROOT / "docs" / "bases.md").read_text(encoding="utf-8").splitlines()
    assert decoders == tuple(line.split(" | ")[0].removeprefix("| ") for line in lines if " | decoder | " in line)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids = token_ids(len(ROWS), 9)
    sides = [batch(mixed, ids, side) for side in ("left", "right")]
    with mixed.route(ROWS):
        together = [mixed(**inputs).logits for inputs in sides]
    for row, names in enumerate(ROWS):
        for inputs, logits in zip(sides, together, strict=True):
            real = inputs["attention_mask"][row].bool()
            with mixed.route([names]):
                alone = mixed(input_ids=inputs["input_ids"][row : row + 1, real]).logits[0]
            torch.testing.assert_close(logits[row, real], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_caches_hold_what_recomputing_gives(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    ids = token_ids(len(ROWS), 9)
    inputs = batch(mixed, ids, "left")
    inputs.pop("position_ids", None)
    with mixed.route(ROWS):
        cache, turns = None, []
        for turn in ids.split([5, 1, 3], dim=1):
            answer = mixed(input_ids=turn, past_key_values=cache, use_cache=True)
            cache = answer.past_key_values
            turns.append(answer.logits)
        whole = mixed(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(torch.cat(turns, 1), whole, rtol=1e-4, atol=1e-4)

        for beams, options in ((1, {"cache_implementation": "static"}), (1, {}), (2, {})):
            cached = mixed.model.generate(**inputs, **GREEDY, num_beams=beams, **options)
            recomputed = mixed.model.generate(**inputs, **GREEDY, num_beams=beams, use_cache=False)
            assert cached.shape == (len(ROWS), 12)
            assert torch.equal(cached, recomputed)


def test_answers_to_prompts_of_unlike_lengths_are_those_of_rows_alone(
    mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    prompts = [ids[:length].tolist() for ids, length in zip(token_ids(len(ROWS), 70), UNLIKE_LENGTHS, strict=True)]
    numbers, options = range(len(ROWS)), GenerationOptions(max_new_tokens=4)

    def answers(rows: Sequence[int]) -> list[str]:
        with generating(mixed, 4), mixed.route([ROWS[i] for i in rows]):
            found = _generate_batch(mixed, [prompts[i] for i in rows], [numbers[i] for i in rows], 4, options)
        return [answer.text for answer in found]

    together = answers(numbers)
    assert len(set(together)) > 1
    assert together == [answers([row])[0] for row in numbers]


def test_recomputed_activations_give_the_same_gradients(
    mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    ids, found = token_ids(len(ROWS), 9), []
    parameters = {
        f"{name}:{path}": parameter
        for name, adapter in mixed.adapters.items()
        for path, parameter in adapter.named_parameters()
    }
    for adapter in mixed.adapters.values():
        adapter.set_trainable(True)
    for recomputing in (False, True):
        torch.manual_seed(3)  # for dropout
        mixed.train()
        with mixed.route(ROWS), gradient_checkpointing(mixed.model) if recomputing else nullcontext():
            logits = mixed(input_ids=ids).logits[:, :-1]
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        found.append({path: parameter.grad for path, parameter in parameters.items()})
        for parameter in parameters.values():
            parameter.grad = None
    for path, gradient in found[0].items():
        assert gradient is not None
        assert gradient.any(), path
        torch.testing.assert_close(found[1][path], gradient, rtol=1e-5, atol=1e-6)
