"""The loss at label positions equals that of the full logits, for every kind of output head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.kernels import loss_head
from petune.sites import head
from petune.sites.head import LabelLoss

# Where the model reworks what its head returns, the model's own logits must be used.
PLAIN_HEADS = {"llama": True, "gpt2": True, "gpt_neox": True, "gemma2": False, "cohere": False}


@pytest.fixture
def batch(token_ids: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    """Three padded rows; labels on parts of them, one on the very first token."""
    ids = token_ids(3, 10)
    labels = ids.clone()
    labels[0, 1:4] = -100
    labels[1, :7] = -100
    mask = torch.ones_like(ids)
    mask[2, 6:], labels[2, 6:] = 0, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def full_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), reduction="sum"
    )


def label_loss(model: AdaptedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return LabelLoss(model.model, model.plugged_into)(inputs, batch["labels"], model).sum()


def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(len(arguments[0]))
        return loss_head.label_cross_entropy(*arguments)

    monkeypatch.setattr(head, "label_cross_entropy", counted)
    return calls


@pytest.mark.parametrize("architecture", PLAIN_HEADS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_and_gradients_equal_those_of_the_full_logits(
    architecture: str,
    method: str,
    batch: dict[str, torch.Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = kernel_calls(monkeypatch)
    base = tiny_base(architecture)
    adapter = randomise(create_adapter(base, method), scale=0.05)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    parameters = list(adapter.parameters())
    expected = full_loss(model, batch)
    wanted = torch.autograd.grad(expected, parameters)

    loss = label_loss(model, batch)

    found = torch.autograd.grad(loss, parameters)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for ours, exact in zip(found, wanted, strict=True):
        assert (ours - exact).norm() <= 1e-4 * exact.norm() + 1e-7
    labels = int((batch["labels"][:, 1:] != -100).sum())
    assert calls == ([labels] if PLAIN_HEADS[architecture] else [])


def test_an_adapter_on_the_head_uses_the_models_logits(
    batch: dict[str, torch.Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = kernel_calls(monkeypatch)
    base = tiny_base()
    adapter = randomise(create_adapter(base, "lora", target_modules=("lm_head", "q_proj")))
    model = AdaptedModel(base, [adapter])
    torch.testing.assert_close(label_loss(model, batch), full_loss(model, batch), rtol=1e-5, atol=0)
    assert not calls
    model.activate()
    torch.testing.assert_close(label_loss(model, batch), full_loss(base.model, batch), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "lora", "target_modules": ("q_proj", "lm_head")},
        {"method": "lora", "modules_to_save": ("lm_head",)},
        {"method": "lora", "trainable_token_indices": {"lm_head": (7, 9), "embed_tokens": (7, 9)}},
        {"method": "ia3", "target_modules": ("v_proj", "lm_head"), "feedforward_modules": ("lm_head",)},
    ],
    ids=["updates", "copies", "rows", "factors"],
)
@pytest.mark.parametrize("labels", [(2, 4, 3), (1, 5, 0), (0, 0, 1), (0, 0, 0)])
def test_adapters_on_the_head_know_the_row_of_each_label(
    keys: dict[str, Any],
    labels: tuple[int, ...],
    token_ids: Callable[..., torch.Tensor],
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
) -> None:
    base = tiny_base()
    adapters = [randomise(create_adapter(base, name=name, **keys), seed=i) for i, name in enumerate("ab")]
    model = AdaptedModel(base, adapters)
    loss, ids, names = LabelLoss(model.model, model.plugged_into), token_ids(3, 8), ["a", "b", "a"]
    wanted = torch.stack([torch.where(torch.arange(8) < 8 - n, -100, row) for n, row in zip(labels, ids, strict=True)])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with model.route(names), torch.no_grad():
        together = loss(inputs, wanted)
    for i, name in enumerate(names):
        with model.route([name]), torch.no_grad():
            alone = loss({key: value[i : i + 1] for key, value in inputs.items()}, wanted[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "llama4_text"])
def test_virtual_tokens_are_read_below_the_head(
    architecture: str, batch: dict[str, torch.Tensor], tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [create_adapter(base, "prompt_tuning", num_virtual_tokens=3)])
    torch.testing.assert_close(label_loss(model, batch), full_loss(model, batch), rtol=1e-5, atol=0)


def test_a_batch_without_labels_decides_nothing(batch: dict[str, torch.Tensor], tiny_base: Callable[..., Base]) -> None:
    model = AdaptedModel(tiny_base("gemma2"))
    loss = LabelLoss(model.model, model.plugged_into)
    inputs = {"input_ids": batch["input_ids"]}
    assert loss(inputs, torch.full_like(batch["labels"], -100)).tolist() == [0.0] * 3
    without_mask = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    with torch.no_grad():
        found = loss(inputs, batch["labels"]).sum()
        torch.testing.assert_close(found, full_loss(model, without_mask), rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", PLAIN_HEADS)
def test_each_row_has_its_own_loss(
    architecture: str, batch: dict[str, torch.Tensor], tiny_base: Callable[..., Base]
) -> None:
    model = AdaptedModel(tiny_base(architecture))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        together = LabelLoss(model.model, model.plugged_into)(inputs, batch["labels"], model)
        alone = [full_loss(model, {name: rows[i : i + 1] for name, rows in batch.items()}) for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=0)


def test_an_error_in_the_model_leaves_no_hook(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model()
    output_head = model.get_output_embeddings()
    with pytest.raises(IndexError):
        LabelLoss(model, lambda _: False)({"input_ids": torch.tensor([[5, 999]])}, torch.tensor([[5, 6]]))
    assert not output_head._forward_hooks
    assert not output_head._forward_pre_hooks
