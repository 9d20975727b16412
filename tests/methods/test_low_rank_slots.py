"""LoRA at embeddings; linears are in test_lora.py."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.kernels.dropout import dropout
from petune.methods.low_rank_slots import LoRAEmbeddingSlot, LoRASlot
from petune.sites.host import Host


class ScaledEmbedding(nn.Embedding):
    """A table whose rows are scaled as they are looked up."""

    embed_scale = 3.0

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.embed_scale


@pytest.mark.parametrize("kind", [nn.Embedding, ScaledEmbedding])
def test_rows_are_looked_up(kind: type[nn.Embedding]) -> None:
    torch.manual_seed(0)
    table = kind(9, 4)
    slot = LoRAEmbeddingSlot(torch.randn(3, 9), torch.randn(4, 3), 0.7)
    slot.meet(Host(table))
    ids = torch.tensor([[1, 8], [0, 1]])
    found = slot(ids, table(ids))
    merged = slot.merged_parameters(table)
    assert merged is not None
    torch.testing.assert_close(
        merged["weight"], table.weight + 0.7 * (slot.lora_embedding_B @ slot.lora_embedding_A).t()
    )
    with torch.no_grad():
        table.weight.copy_(merged["weight"])
    torch.testing.assert_close(table(ids), found)


@pytest.mark.parametrize(("architecture", "name"), [("llama", "embed_tokens"), ("gpt2", "wte"), ("gpt2", "wpe")])
def test_trains_step_for_step_like_peft(
    architecture: str, name: str, tiny_base: Callable[..., Base], token_ids: Callable[..., Tensor]
) -> None:
    ids, base, twin = token_ids(3, 10), tiny_base(architecture), tiny_base(architecture)
    ids[0, 0] = 0  # the padding token, whose row of A gets no gradient
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6}
    adapter = create_adapter(base, target_modules=(name,), **settings)
    adapter.set_trainable(True)
    ours = AdaptedModel(base, [adapter])
    theirs = peft.tuners.lora.LoraModel(twin.model, peft.LoraConfig(target_modules=[name], **settings), "default")
    (path,) = adapter.slots
    wanted = dict(theirs.named_parameters())
    with torch.no_grad():
        wanted[f"model.{path}.lora_embedding_B.default"].copy_(adapter.tensors()[f"{path}.lora_embedding_B"])
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    optimizers = [torch.optim.SGD(p, lr=1.0) for p in (adapter.parameters(), trainable)]
    for _ in range(3):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    a = adapter.tensors()[f"{path}.lora_embedding_A"]
    torch.testing.assert_close(a, wanted[f"model.{path}.lora_embedding_A.default"].detach(), rtol=1e-3, atol=1e-5)
    if base.model.get_submodule(path).padding_idx == 0:
        assert not a[:, 0].any()


@torch.no_grad()
def test_a_table_tied_to_the_head_is_adapted_but_not_merged(
    tiny_base: Callable[..., Base], randomise: Callable[..., Any], token_ids: Callable[..., Tensor]
) -> None:
    base, ids = tiny_base("gpt2"), token_ids(2, 6)
    head = base.model.lm_head.weight.clone()
    model = AdaptedModel(base, [randomise(create_adapter(base, target_modules=("wte",)))])
    hidden = base.model.transformer(ids).last_hidden_state
    torch.testing.assert_close(model(input_ids=ids).logits, hidden @ head.t())
    with pytest.raises(ConfigError, match=r"'transformer.wte' shares its weight with lm_head.weight"):
        model.merge("default")


def linear_slot(seed: int, rank: int = 3, **settings: Any) -> LoRASlot:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 4, generator=generator), torch.randn(5, rank, generator=generator)
    return LoRASlot(a, b, 0.5 * seed, **settings)


def test_several_slots_at_once() -> None:
    slots = [linear_slot(1), linear_slot(2, rank=2), linear_slot(3)]
    x, y = torch.randn(5, 6, 4), torch.randn(5, 6, 5)
    found = LoRASlot.together(slots, ((1, 0, 1), (0, 1, 3), (2, 3, 4), (1, 4, 5)), x, y)
    assert found is not None
    for row, slot in enumerate([1, 0, 0, 2, 1]):
        torch.testing.assert_close(found[row], slots[slot](x[row], y[row]))


def test_dropout_of_several_slots_at_once() -> None:
    slots = [linear_slot(seed, dropout=0.5) for seed in (1, 2)]
    x, y = torch.randn(2, 6, 4), torch.randn(2, 6, 5)
    for training in (True, False):
        for slot in slots:
            slot.train(training)
        torch.manual_seed(0)
        found = LoRASlot.together(slots, ((1, 0, 1), (0, 1, 2)), x, y)
        assert found is not None
        torch.manual_seed(0)
        seen = dropout(x, 0.5) if training else x
        expected = [
            y[i] + slots[g].scale * seen[i] @ slots[g].lora_A.t() @ slots[g].lora_B.t() for i, g in enumerate([1, 0])
        ]
        torch.testing.assert_close(found, torch.stack(expected))


ONE_EACH = ((0, 0, 1), (1, 1, 2))


@pytest.mark.parametrize("other", [{"dropout": 0.1}, {"has_magnitude": True}, {"subtract_start": True}], ids=str)
def test_slots_that_differ_work_one_after_the_other(other: dict[str, Any]) -> None:
    slots = [linear_slot(1), linear_slot(2, **other)]
    assert LoRASlot.together(slots, ONE_EACH, torch.randn(2, 4), torch.randn(2, 5)) is None


def test_slots_of_which_one_alone_trains_work_one_after_the_other() -> None:
    slots = [linear_slot(1, dropout=0.5), linear_slot(2, dropout=0.5).eval()]
    assert LoRASlot.together(slots, ONE_EACH, torch.randn(2, 4), torch.randn(2, 5)) is None
