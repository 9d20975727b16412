"""A NaN or an infinity stops the run before the step; nothing is changed by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base
from petune.errors import DivergedError
from petune.sites.head import LabelLoss
from petune.training import loop
from petune.training.adapter_run import AdapterRun
from petune.training.checkpoints import load
from petune.training.run import train

BAD_STEP = 3


class Spy:
    """Keeps the adapter's values before each update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run: AdapterRun | None = None
        self.values: dict[str, torch.Tensor] = {}
        original = AdapterRun.update

        def update(run: AdapterRun, rows: Any, norm: float) -> float:
            self.run = run
            self.values = {name: tensor.clone() for name, tensor in run.adapter.tensors().items()}
            return original(run, rows, norm)

        monkeypatch.setattr(AdapterRun, "update", update)


def spoil_loss(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Spoil the loss of the second micro-batch of step ``BAD_STEP``."""
    steps: list[int] = []
    accumulate, label_loss = loop.Loop._accumulate, LabelLoss.__call__

    def noted(this: loop.Loop, batch: Any, *more: Any) -> torch.Tensor:
        steps.append(batch[0][0].run.progress.step)
        return accumulate(this, batch, *more)

    def spoilt(this: Any, *arguments: Any) -> torch.Tensor:
        loss = label_loss(this, *arguments)
        return loss * value if steps[-2:] == [BAD_STEP - 1] * 2 else loss

    monkeypatch.setattr(loop.Loop, "_accumulate", noted)
    monkeypatch.setattr(LabelLoss, "__call__", spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_bad_loss_in_one_micro_batch(
    value: float,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    keys: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = Spy(monkeypatch)
    spoil_loss(monkeypatch, value)
    with pytest.raises(DivergedError) as caught:
        train(keys(save_steps=1), base=tiny_base())
    message = str(caught.value)
    assert f"the loss is {value} at step {BAD_STEP}, in rows " in message
    assert message.count("train.jsonl:") == 2
    assert "checkpoint-2. Lower --learning-rate" in message
    assert "learning rate 0.00" in message
    assert caught.value.exit_code == 5
    assert spy.run is not None
    saved = load(tmp_path / "run" / "checkpoint-2").masters
    assert all(torch.equal(t, saved[n]) for n, t in spy.run.adapter.tensors().items())
    assert spy.run.progress.step == 2
    assert not (tmp_path / "run" / "petune.json").exists()


def test_a_bad_gradient_with_a_good_loss(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    base = tiny_base()

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if spy.run is not None and spy.run.progress.step == BAD_STEP - 1:
            return torch.full_like(gradient, float("nan"))
        return gradient

    def watch(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(spoil)

    base.model.get_submodule(base.structure.blocks[-1]).mlp.register_forward_hook(watch)
    with pytest.raises(DivergedError, match=rf"the gradient's norm is nan at step {BAD_STEP}, in rows .*:\d+, "):
        train(keys(), base=base)
    assert spy.run is not None
    assert all(torch.equal(t, spy.values[n]) for n, t in spy.run.adapter.tensors().items())
    assert all(t.isfinite().all() for t in spy.run.adapter.tensors().values())


def test_a_failed_run_gives_the_base_back(
    method: str, tiny_base_for: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base_for(method)
    before = {name: (id(p), p.detach().clone()) for name, p in base.model.named_parameters()}
    with monkeypatch.context() as patch:
        spoil_loss(patch, float("nan"))
        with pytest.raises(DivergedError):
            train(keys(method=method), base=base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())
    assert all(id(p) == before[n][0] and torch.equal(p, before[n][1]) for n, p in base.model.named_parameters())
    assert train(keys(method=method), base=base, overwrite=True).steps == 8


def test_an_infinite_weight_of_the_base(tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    base = tiny_base()
    with torch.no_grad():
        base.model.get_parameter("model.norm.weight")[0] = float("inf")
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step 1, in rows .*no checkpoint yet"):
        train(keys(), base=base)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fp16_overflow_leaves_steps_out_until_the_scale_fits(
    method: str, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    rate = 1e-2 if method == "lora" else 1e-3
    result = train(keys(method=method, num_train_epochs=6, learning_rate=rate), base=tiny_base(dtype=torch.float16))
    losses = [entry["loss"] for entry in result.history]
    assert losses[-1] < losses[0] - 0.5
    assert all(
        t.dtype == torch.float32 and t.isfinite().all() for t in result.model.adapter("default").tensors().values()
    )


def test_fp16_gradients_that_are_never_finite_stop_the_run(
    tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    base = tiny_base(dtype=torch.float16)

    def watch(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * float("nan"))

    base.model.get_submodule(base.structure.blocks[-1]).mlp.register_forward_hook(watch)
    with pytest.raises(DivergedError, match="the gradient's norm is nan at step"):
        train(keys(max_steps=60), base=base)
