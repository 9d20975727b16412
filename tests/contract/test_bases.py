"""Every method on every kind of base: it works, or it is refused with what would."""

from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import BaseModelError

TEXT = ("causal_lm", "masked_lm", "seq2seq_lm")


def inputs_of(base: Base, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a call's arguments with the last row padded on the right."""
    mask = torch.ones_like(ids)
    mask[-1, -3:] = 0
    ids = ids.masked_fill(mask == 0, 0)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if base.task == "seq2seq_lm":
        inputs["decoder_input_ids"] = ids[:, :4]
    return inputs


@pytest.fixture(params=["bert", "roberta", "distilbert", "albert", "electra", "modernbert", "t5", "bart"])
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(
    base: Base, sharing_method: str, trained: Callable[..., AdaptedModel], token_ids: Callable[..., torch.Tensor]
) -> None:
    model = trained(base, sharing_method)
    if model.insertions:
        pytest.skip("rows hold virtual tokens")
    inputs = inputs_of(base, token_ids(3, 9))
    with model.route([sharing_method and "default", None, "default"]):
        together = model(**inputs).logits
    model.activate()
    bare = model(**inputs).logits
    model.activate("default")
    alone = model(**{k: v[:1] for k, v in inputs.items()}).logits[0]
    torch.testing.assert_close(alone, together[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bare[1], together[1], rtol=1e-4, atol=1e-4)
    last = {k: v[2:, : 4 if k == "decoder_input_ids" else 6] for k, v in inputs.items()}
    real = 4 if base.task == "seq2seq_lm" else 6
    torch.testing.assert_close(model(**last).logits[0], together[2, :real], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone, bare[0], atol=1e-3)


def test_every_parameter_learns(base: Base, method: str, token_ids: Callable[..., torch.Tensor]) -> None:
    adapter = create_adapter(base, method)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    if model.insertions:
        pytest.skip("rows hold virtual tokens")
    inputs = inputs_of(base, token_ids(3, 9))
    before = {name: tensor.clone() for name, tensor in adapter.tensors().items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        logits = model(**inputs).logits
        (logits * torch.randn(logits.shape, generator=generator)).sum().backward()
        with torch.no_grad():
            for parameter in adapter.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad
                    parameter.grad = None
        adapter.refresh()
    still = [name for name, tensor in adapter.tensors().items() if torch.equal(tensor, before[name])]
    assert still == [], still


def test_attention_that_cannot_be_reached_is_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("deberta-v2")
    with pytest.raises(BaseModelError, match="methods that change outputs or weights work"):
        create_adapter(base, "prefix_tuning")
    create_adapter(base, "lora")
