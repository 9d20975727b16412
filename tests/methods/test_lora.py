"""LoRA: its start, its maths, its settings."""

import math
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import nn

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.backbone.structure import Structure
from petune.errors import ConfigError, TargetError
from petune.methods.lora import LoRA, LoRAConfig
from petune.methods.low_rank_slots import LoRASlot
from petune.methods.method import Target
from petune.training.optimizer import make_optimizer
from petune.training.options import TrainingOptions


def slot(d_in: int = 6, d_out: int = 4, **settings: Any) -> LoRASlot:
    config, generator = LoRAConfig(**settings), torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) / 3 for shape in ((config.r, d_in), (d_out, config.r)))
    return LoRASlot(a, b, config.scale(config.r, config.lora_alpha), dropout=config.lora_dropout)


def fresh(linear: nn.Linear, **settings: Any) -> LoRASlot:
    """Return a slot as the method makes it for one linear."""
    model: Any = nn.Sequential(linear)
    target = Target(model, Structure(model), None, torch.Generator().manual_seed(0))
    made = LoRA().build(LoRAConfig(target_modules="0", **settings), target)["0"]
    assert isinstance(made, LoRASlot)
    return made


@pytest.mark.parametrize("use_rslora", [False, True])
def test_forward_is_the_formula_of_the_paper(use_rslora: bool) -> None:
    made = slot(r=3, lora_alpha=5.0, use_rslora=use_rslora)
    scale = 5 / math.sqrt(3) if use_rslora else 5 / 3
    x, y = torch.randn(2, 7, 6), torch.randn(2, 7, 4)
    expected = y.double() + scale * x.double() @ made.lora_A.double().t() @ made.lora_B.double().t()
    torch.testing.assert_close(made(x, y).double(), expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(4, 6)
    torch.testing.assert_close(x @ made.merged_weight(weight).t(), made(x, x @ weight.t()), rtol=1e-5, atol=1e-5)


def test_start_is_that_of_peft() -> None:
    made = fresh(nn.Linear(1000, 4), r=64)
    assert torch.equal(made.lora_B, torch.zeros(4, 64))
    bound = 1 / math.sqrt(1000)
    assert made.lora_A.abs().max() <= bound
    assert made.lora_A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    theirs = torch.empty(64, 1000)
    torch.nn.init.kaiming_uniform_(theirs, a=math.sqrt(5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.lora_A.detach(), theirs)


def test_other_starts_are_those_of_peft() -> None:
    gaussian = fresh(nn.Linear(1000, 4), r=64, init_lora_weights="gaussian")
    assert gaussian.lora_A.std().item() == pytest.approx(1 / 64, rel=0.02)
    assert not gaussian.lora_B.any()
    both = fresh(nn.Linear(1000, 500), r=64, init_lora_weights=False)
    assert both.lora_B.abs().max().item() == pytest.approx(1 / 8, rel=0.01)
    assert LoRAConfig(init_lora_weights="False").init_lora_weights is False


def test_dropout_only_in_training_and_without_bias() -> None:
    made = slot(r=2, lora_dropout=0.5)
    x, y = torch.randn(1, 6), torch.zeros(1, 4)
    made.eval()
    expected = made(x, y)
    assert torch.equal(made(x, y), expected)
    made.train()
    torch.manual_seed(0)
    mean = torch.stack([made(x, y) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0.1, atol=0.1)
    assert not torch.equal(made(x, y), made(x, y))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_trains_step_for_step_like_peft(
    architecture: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    ids, base, twin = token_ids(3, 10), tiny_base(architecture), tiny_base(architecture)
    adapter = create_adapter(base, r=4, lora_alpha=6, target_modules="attention")
    adapter.set_trainable(True)
    ours = AdaptedModel(base, [adapter])
    names = sorted({path.rpartition(".")[2] for path in adapter.slots})
    if architecture == "gpt2":  # the attention's c_proj shares its name with the mlp's
        names = [r".*attn\.(c_attn|c_proj)"]
    transposed = architecture == "gpt2"
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=names[0] if transposed else names, fan_in_fan_out=transposed
    )
    theirs = peft.tuners.lora.LoraModel(twin.model, config, "default")
    wanted = dict(theirs.named_parameters())
    with torch.no_grad():
        for path, made in adapter.slots.items():
            wanted[f"model.{path}.lora_A.default.weight"].copy_(made.lora_A)
    trainable = [p for p in theirs.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trainable) == adapter.num_parameters()
    optimizers = [torch.optim.AdamW(p, lr=1e-2) for p in (adapter.parameters(), trainable)]
    for _ in range(3):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for path, made in adapter.slots.items():
        torch.testing.assert_close(made.lora_B, wanted[f"model.{path}.lora_B.default.weight"], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "'r' is 0: Input should be greater than or equal to 1"),
        ({"r": 10**9}, "'r' is 1000000000"),
        ({"r": 2.5}, "'r' is 2.5"),
        ({"lora_alpha": -1}, "'lora_alpha' is -1"),
        ({"lora_alpha": float("inf")}, "'lora_alpha' is inf"),
        ({"lora_dropout": 1.0}, "'lora_dropout' is 1.0"),
        ({"target_modules": 3}, "'target_modules"),
        ({"init_lora_weights": "olora"}, "'init_lora_weights' is 'olora': choose true, false, gaussian, pissa"),
        ({"rank_pattern": {"q_proj": 0}}, "'rank_pattern.q_proj' is 0"),
        ({"layers_pattern": "h"}, "layers_pattern says where layers_to_transform counts"),
        ({"loraplus_lr_ratio": 0}, "'loraplus_lr_ratio' is 0"),
        ({"rank": 3}, r"unknown key 'rank'\..* The keys are r, lora_alpha, lora_dropout, use_rslora, use_dora"),
        ({"r": 3, "lora_r": 4}, "lora_r"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(
    options: dict[str, Any], message: str, tiny_base: Callable[..., Base]
) -> None:
    with pytest.raises(ConfigError, match=f"method lora: .*{message}"):
        create_adapter(tiny_base(), "lora", **options)


def test_both_names_of_the_rank() -> None:
    assert LoRAConfig(r=3) == LoRAConfig(lora_r=3)


def test_targets_layers_and_exclusions(tiny_base: Callable[..., Base]) -> None:
    def chosen(**options: Any) -> list[str]:
        return [path.removeprefix("model.layers.") for path in create_adapter(tiny_base(), **options).slots]

    assert chosen(target_modules="q_proj", layers_to_transform=(0, 2)) == ["0.self_attn.q_proj", "2.self_attn.q_proj"]
    assert chosen(target_modules="attention", exclude_modules="(.*[kvo]_proj)|(.*[01].self_attn.q_proj)") == [
        "2.self_attn.q_proj"
    ]
    assert len(chosen(exclude_modules=("q_proj",))) == 18
    with pytest.raises(TargetError, match="layer 3 does not exist: this base model has 3 blocks, numbered 0 to 2"):
        chosen(layers_to_transform=(3,))


def test_a_linear_shared_by_all_blocks_is_adapted_once(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(num_hidden_layers=1)
    adapter = create_adapter(base, target_modules="all-linear")
    assert len(adapter.slots) == len(base.structure.linears) - 1
    assert "lm_head" not in adapter.slots
    assert randomise(adapter).num_parameters() == sum(t.numel() for t in adapter.tensors().values())


def test_ranks_and_scales_of_their_own(tiny_base: Callable[..., Base]) -> None:
    adapter = create_adapter(
        tiny_base(),
        target_modules="attention",
        r=4,
        lora_alpha=8,
        rank_pattern={r"layers.1.*q_proj": 2, "q_proj": 6, "o_proj": 1},
        alpha_pattern={"o_proj": 3},
    )
    found = {path.removeprefix("model.layers."): (s.lora_A.shape[0], s.scale) for path, s in adapter.slots.items()}
    assert found["0.self_attn.q_proj"] == (6, 8 / 6)
    assert found["1.self_attn.q_proj"] == (2, 4.0)
    assert found["2.self_attn.o_proj"] == (1, 3.0)
    assert found["2.self_attn.k_proj"] == (4, 2.0)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ({"up_proj": 3}, "'up_proj' matches none of the modules that are adapted; their paths look like 'model.layers"),
        ({"q_proj(": 3}, "'.*' is no regular expression"),
        ({"(a+)+" * 300: 3}, "a pattern has 15.. characters, at most 1000 are taken"),
    ],
    ids=["unused", "malformed", "long"],
)
def test_patterns_of_ranks_that_cannot_be_used(
    tiny_base: Callable[..., Base], pattern: dict[str, int], message: str
) -> None:
    with pytest.raises(TargetError, match=f"rank_pattern: .*{message}"):
        create_adapter(tiny_base(), target_modules="q_proj", rank_pattern=pattern)


def test_layers_are_counted_in_the_list_that_is_named(tiny_base: Callable[..., Base]) -> None:
    def chosen(**options: Any) -> list[str]:
        return list(create_adapter(tiny_base(), target_modules="q_proj", **options).slots)

    assert chosen(layers_to_transform=(1,), layers_pattern="layers") == ["model.layers.1.self_attn.q_proj"]
    assert chosen(layers_to_transform=(1,), layers_pattern=("h", "layers")) == chosen(layers_to_transform=(1,))
    with pytest.raises(TargetError, match="no linear is left of target modules 'q_proj'"):
        chosen(layers_to_transform=(1,), layers_pattern="h")


@pytest.mark.parametrize("ratio", [None, 16.0])
def test_rates_of_lora_plus(ratio: float | None, tiny_base: Callable[..., Base]) -> None:
    adapter = create_adapter(tiny_base(), target_modules=("q_proj", "embed_tokens"), loraplus_lr_ratio=ratio)
    optimizer = make_optimizer(adapter, TrainingOptions(learning_rate=1e-3))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in adapter.named_masters():
        expected = 1e-3 * (ratio or 1) if name.endswith(".lora_B") else 1e-3
        assert rates[id(parameter)] == pytest.approx(expected)
    written = make_optimizer(adapter, TrainingOptions(module_learning_rates={"*.lora_B": 7e-5}))
    assert {group["lr"] for group in written.param_groups} == {4e-4, 7e-5}


def test_lora_plus_is_about_linears(tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=r"target_modules names embeddings alone; .* module_learning_rates"):
        create_adapter(tiny_base(), target_modules="embed_tokens", loraplus_lr_ratio=16)
    adapter = create_adapter(tiny_base(), target_modules="embed_tokens")
    own = make_optimizer(adapter, TrainingOptions(module_learning_rates={"*.lora_embedding_B": 7e-5}))
    assert {group["lr"] for group in own.param_groups} == {4e-4, 7e-5}


@pytest.mark.parametrize("architecture", ["gemma4_text", "llama4_text"])
def test_bases_with_layers_or_linears_of_several_kinds_learn(
    architecture: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 8)
    adapter = create_adapter(base, "lora", r=2)
    adapter.set_trainable(True)
    model, optimizer = AdaptedModel(base, [adapter]), torch.optim.SGD(adapter.parameters(), lr=1e-2)
    before = model(input_ids=ids, labels=ids).loss
    before.backward()
    optimizer.step()
    assert model(input_ids=ids, labels=ids).loss < before
