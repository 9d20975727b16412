"""Rows of the embeddings and of the head for chosen tokens."""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.sites.host import Host
from petune.sites.token_rows import TokenRows

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.mark.parametrize("bias", [True, False])
def test_rows_stand_in_place_of_the_table_s(bias: bool) -> None:
    torch.manual_seed(0)
    table, head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=bias)
    chosen = [7, 2, 8]
    for module in (table, head):
        slot = TokenRows(chosen, module.weight)
        slot.meet(Host(module))
        ids, hidden = torch.tensor([[2, 0, 8], [7, 7, 3]]), torch.randn(2, 3, 4)
        x = ids if module is table else hidden
        assert torch.equal(slot(x, module(x)), module(x))
        assert slot.rows is not None
        with torch.no_grad():
            slot.rows.normal_()
            changed = module.weight.clone()
            changed[chosen] = slot.rows
        merged = slot.merged_parameters(module)
        assert torch.equal(merged["weight"], changed)
        expected = changed[ids] if module is table else nn.functional.linear(hidden, changed, head.bias)
        torch.testing.assert_close(slot(x, module(x)), expected)
        slot(x, module(x)).sum().backward()
        assert slot.rows.grad is not None
        assert slot.rows.grad.any(dim=1).all()


@pytest.mark.parametrize(
    "indices",
    [(5, 9, 7), {"embed_tokens": (5, 9), "lm_head": (7,)}, {"lm_head": (250, 3)}],
    ids=["list", "both", "head"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_trains_step_for_step_like_peft(
    tied: bool, indices: Any, tiny_base: Callable[..., Base], token_ids: Callable[..., Tensor]
) -> None:
    if tied and isinstance(indices, dict) and len(indices) == 2:
        indices = {"embed_tokens": (5, 9), "lm_head": (5, 9)}
    base, twin = (tiny_base(tie_word_embeddings=tied) for _ in range(2))
    ids = token_ids(3, 10)
    ids[0, :5] = torch.tensor([5, 9, 7, 250, 5])
    adapter = create_adapter(base, target_modules="q_proj", trainable_token_indices=indices, r=2, lora_alpha=4)
    adapter.set_trainable(True)
    ours = AdaptedModel(base, [adapter])
    plain = {name: list(i) for name, i in indices.items()} if isinstance(indices, dict) else list(indices)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj"], r=2, lora_alpha=4, trainable_token_indices=plain
    )
    theirs = peft.get_peft_model(twin.model, config)
    wanted = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, tensor in adapter.tensors().items():
            if name.endswith(".lora_A"):
                wanted[f"base_model.model.{name}.default.weight"].copy_(tensor)
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == adapter.num_parameters()
    optimizers = [torch.optim.SGD(p, lr=0.5) for p in (adapter.parameters(), trainable)]
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


@torch.no_grad()
def test_tied_tables_are_merged_together_and_come_back(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., Tensor]
) -> None:
    base, ids = tiny_base("gpt2"), token_ids(2, 8)
    ids[:, 2] = 5
    weight = base.model.lm_head.weight
    adapter = randomise(create_adapter(base, target_modules="c_attn", trainable_token_indices=(5,)))
    model = AdaptedModel(base, [adapter])
    live = model(input_ids=ids).logits
    model.merge("default")
    torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    assert base.model.lm_head.weight is base.model.transformer.wte.weight
    assert base.model.lm_head.weight is not weight
    model.unmerge("default")
    assert base.model.lm_head.weight is base.model.transformer.wte.weight is weight
    assert torch.equal(model(input_ids=ids).logits, live)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable_token_indices": (288,)}, r"'model.embed_tokens' has tokens 0 to 287, .* got \[288\]"),
        ({"trainable_token_indices": (3, 3)}, "each to be named once"),
        (
            {"trainable_token_indices": {"q_proj": (1,)}},
            "'q_proj' is no table of tokens; they are model.embed_tokens, lm_",
        ),
        (
            {"trainable_token_indices": (3,), "target_modules": "embed_tokens"},
            "'model.embed_tokens' is adapted by LoRA",
        ),
    ],
    ids=str,
)
def test_rows_that_cannot_be_learned_are_refused(
    tiny_base: Callable[..., Base], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), **options)


def test_tied_tables_have_one_list(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=r"'lm_head' and 'transformer\.wte' are one table"):
        create_adapter(tiny_base("gpt2"), trainable_token_indices={"wte": (1,), "lm_head": (2,)})


def test_a_base_without_the_new_tokens_is_refused(tiny_base: Callable[..., Base]) -> None:
    adapter = create_adapter(tiny_base(), new_tokens=tuple(f"<{i}>" for i in range(40)))
    base = tiny_base()
    with pytest.raises(ConfigError, match="rows for tokens up to 298, this base ends at 287: its vocabulary lacks"):
        AdaptedModel(base, [adapter])
    assert torch.isfinite(AdaptedModel(base)(input_ids=torch.tensor([[3]])).logits).all()


def test_rows_beside_a_copy_of_the_table_they_would_share_are_their_own(
    tiny_base: Callable[..., Base], token_ids: Callable[..., Tensor]
) -> None:
    base = tiny_base(tie_word_embeddings=True)
    adapter = create_adapter(base, target_modules="q_proj", modules_to_save=("embed_tokens",), new_tokens=("<n>",))
    assert list(adapter.token_rows) == ["lm_head"]
    rows = adapter.token_rows["lm_head"].rows
    assert rows is not None
    assert "lm_head.rows" in adapter.tensors()
    adapter.set_trainable(True)
    logits = AdaptedModel(base, [adapter])(input_ids=token_ids(2, 5)).logits
    logits[..., base.tokenizer.convert_tokens_to_ids("<n>")].sum().backward()
    assert rows.grad is not None
    assert rows.grad.any()


def test_tables_inside_what_is_learned_whole_have_no_rows(tiny_base: Callable[..., Base]) -> None:
    adapter = create_adapter(tiny_base("bert"), modules_to_save=("embeddings",), trainable_token_indices=(5,))
    assert not [path for path in adapter.token_rows if path.startswith("bert.embeddings.")]
    assert all(slot.tied_to is None for slot in adapter.token_rows.values())


@pytest.mark.parametrize(
    ("architecture", "named"), [("llama", "lm_head"), ("bart", "decoder.embed_tokens"), ("t5", "lm_head")]
)
def test_new_tokens_keep_those_of_a_shared_table_under_another_name(
    architecture: str, named: str, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture, tie_word_embeddings=True)
    wanted = {named: (7, 5)}
    adapter = create_adapter(base, target_modules="attention", trainable_token_indices=wanted, new_tokens=("<n>",))
    new = base.tokenizer.convert_tokens_to_ids("<n>")
    assert adapter.token_rows
    assert {tuple(slot.indices.tolist()) for slot in adapter.token_rows.values()} == {(5, 7, new)}
