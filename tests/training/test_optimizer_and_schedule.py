"""Rates, steps and epochs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError
from petune.training.optimizer import load_optimizer_tensors, make_optimizer, make_schedule, optimizer_tensors
from petune.training.options import TrainingOptions
from petune.training.recipe import Recipe
from petune.training.schedule import Schedule

LENGTHS = [3, 9, 4, 7, 5, 8, 6, 3, 9, 4]


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(**{"per_device_train_batch_size": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"num_train_epochs": 1}, 3),
        ({"num_train_epochs": 3}, 9),
        ({"num_train_epochs": 1.34}, 4),
        ({"num_train_epochs": 0.7}, 2),
        ({"num_train_epochs": 0.01}, 1),
        ({"max_steps": 7, "num_train_epochs": 1}, 7),
        ({"num_train_epochs": 2, "gradient_accumulation_steps": 2}, 4),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 100}, 2),
    ],
    ids=str,
)
def test_steps_of_a_run(changes: dict[str, Any], steps: int) -> None:
    assert Schedule(LENGTHS, options(**changes)).total_steps == steps


@pytest.mark.parametrize("tokens", [None, 20])
def test_each_epoch_has_every_row_once_in_its_own_order(tokens: int | None) -> None:
    schedule = Schedule(LENGTHS, options(num_train_epochs=3, tokens_per_step=tokens))
    epochs: dict[int, list[int]] = {}
    for step in range(schedule.total_steps):
        epoch, rows = schedule.rows(step)
        epochs.setdefault(epoch, []).extend(rows)
        assert tokens is None or sum(LENGTHS[i] for i in rows) <= tokens
    assert sorted(epochs) == [0, 1, 2]
    assert all(sorted(rows) == list(range(10)) for rows in epochs.values())
    assert epochs[0] != epochs[1] != epochs[2]
    again = Schedule(LENGTHS, options(num_train_epochs=3, tokens_per_step=tokens))
    assert [again.rows(s) for s in (5, 1)] == [schedule.rows(s) for s in (5, 1)]


def test_epochs_are_counted_and_ended() -> None:
    schedule = Schedule(LENGTHS, options(num_train_epochs=2.34))
    assert schedule.total_steps == 7
    assert [schedule.epoch_at(n) for n in (0, 1, 3, 4, 6)] == pytest.approx([0, 1 / 3, 1, 4 / 3, 2])
    assert [n for n in range(1, 8) if schedule.ends_epoch(n)] == [3, 6, 7]


@pytest.fixture
def adapter(tiny_base: Callable[..., Base]) -> Any:
    return create_adapter(tiny_base(), target_modules=("q_proj", "up_proj"))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("constant", [0, 0.5, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_course_of_the_rate(kind: str, expected: list[float], adapter: Any) -> None:
    settings = options(learning_rate=1.0, lr_scheduler_type=kind, warmup_steps=2)
    optimizer = make_optimizer(adapter, settings)
    schedule = make_schedule(optimizer, settings, 6)
    found = []
    for _ in range(6):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(expected, abs=1e-6)


def test_warmup_longer_than_the_run_and_by_ratio(adapter: Any) -> None:
    settings = options(learning_rate=1.0, warmup_steps=100)
    optimizer = make_optimizer(adapter, settings)
    schedule = make_schedule(optimizer, settings, 4)
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.25)
    assert make_schedule(optimizer, options(warmup_ratio=0.0), 4).get_last_lr()[0] > 0


def test_rates_of_their_own(adapter: Any) -> None:
    settings = options(learning_rate=1e-3, module_learning_rates={"*.lora_B": 4e-3, "*layers.0.*": 5e-5})
    optimizer = make_optimizer(adapter, settings)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for path, slot in adapter.slots.items():
        for name, parameter in slot.named_parameters():
            wanted = 4e-3 if name == "lora_B" else 5e-5 if "layers.0." in path else 1e-3
            assert rates[id(parameter)] == wanted
    assert len(rates) == len(list(adapter.parameters()))
    with pytest.raises(
        ConfigError, match=r"module_learning_rates: '\*\.lora_C' matches no parameter of the adapter; paths"
    ):
        make_optimizer(adapter, options(module_learning_rates={"*.lora_C": 1.0}))
    with pytest.raises(ConfigError, match=r"all that '\*\.lora_B' matches, an earlier pattern matches too"):
        make_optimizer(adapter, options(module_learning_rates={"*.lora_*": 1.0, "*.lora_B": 2.0}))
    with pytest.raises(ConfigError, match=r"module_learning_rates.*greater than or equal to 0"):
        Recipe.parse({"data": "rows.jsonl", "module_learning_rates": {"*.lora_B": -1e-3}})
    Recipe.parse({"data": "rows.jsonl", "module_learning_rates": {"*.lora_B": 0}})


def test_the_methods_own_rate_is_the_default(adapter: Any) -> None:
    assert make_optimizer(adapter, options()).defaults["lr"] == adapter.method.learning_rate


def test_state_of_the_optimiser_goes_through_tensors(adapter: Any, tiny_base: Callable[..., Base]) -> None:
    twin = create_adapter(tiny_base(), target_modules=("q_proj", "up_proj"))
    settings = options(weight_decay=0.1)
    first, second = make_optimizer(adapter, settings), make_optimizer(twin, settings)

    def step(one: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in one.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    for seed in range(3):
        step(adapter, first, seed)
    twin.load_tensors(adapter.tensors())
    load_optimizer_tensors(second, {k: t.clone() for k, t in optimizer_tensors(first).items()})
    step(adapter, first, 9)
    step(twin, second, 9)
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), twin.parameters(), strict=True))
