"""Contracts 5 and 7 on encoders and encoder-decoders, with every method: rows, recomputed activations, caches.

A batch holds rows of the method, of neighbours by two other methods, and of the base alone.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.training.recomputation import gradient_checkpointing

ROWS = ("default", "low-rank", None, ["low-rank", "default"], "prefix", "default")
LENGTHS = (9, 9, 6, 4, 9, 5)
RECOMPUTING = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "deberta-v2", "t5", "bart")
"""All but ALBERT, for which transformers has no gradient checkpointing: it is refused."""
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture
def mixed(
    encoder: str, sharing_method: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> AdaptedModel:
    """A base with an adapter of the method, and one of two others each."""
    base = tiny_base(encoder)
    adapters = [
        create_adapter(base, sharing_method),
        create_adapter(base, "lora", name="low-rank", r=3, target_modules="attention"),
        create_adapter(base, "prefix_tuning", name="prefix", num_virtual_tokens=3),
    ]
    return AdaptedModel(base, [randomise(adapter, seed=i) for i, adapter in enumerate(adapters)])


def batch(model: AdaptedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return rows of several lengths, padded on the right, with the virtual tokens that they want."""
    mask = (torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    return model.insert_virtual_tokens({"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}, ROWS)


def logits(model: AdaptedModel, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the logits of each row at its own tokens."""
    if model.base.task == "seq2seq_lm":
        answer = torch.arange(5, 9).expand(len(inputs["input_ids"]), -1)
        return list(model(**inputs, decoder_input_ids=answer).logits)
    found = model(**inputs).logits
    return [row[mask.bool()] for row, mask in zip(found, inputs["attention_mask"], strict=True)]


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    inputs = batch(mixed, token_ids(len(ROWS), 9))
    with mixed.route(ROWS):
        together = logits(mixed, inputs)
    for row, names in enumerate(ROWS):
        real = inputs["attention_mask"][row].bool()
        with mixed.route([names]):
            (alone,) = logits(mixed, {key: tensor[row : row + 1, real] for key, tensor in inputs.items()})
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", RECOMPUTING, indirect=True)
def test_recomputed_activations_give_the_same_gradients(
    mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]
) -> None:
    inputs, found = batch(mixed, token_ids(len(ROWS), 9)), []
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
            torch.stack([row.logsumexp(-1).square().sum() for row in logits(mixed, inputs)]).sum().backward()
        found.append({path: parameter.grad for path, parameter in parameters.items()})
        for parameter in parameters.values():
            parameter.grad = None
    for path, gradient in found[0].items():
        assert gradient is not None
        assert gradient.any(), path
        torch.testing.assert_close(found[1][path], gradient, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["t5", "bart"], indirect=True)
def test_caches_hold_what_recomputing_gives(mixed: AdaptedModel, token_ids: Callable[..., torch.Tensor]) -> None:
    inputs = batch(mixed, token_ids(len(ROWS), 9))
    with mixed.route(ROWS):
        for beams, options in ((1, {"cache_implementation": "static"}), (1, {}), (2, {})):
            cached = mixed.model.generate(**inputs, **GREEDY, num_beams=beams, **options)
            recomputed = mixed.model.generate(**inputs, **GREEDY, num_beams=beams, use_cache=False)
            assert torch.equal(cached, recomputed)
