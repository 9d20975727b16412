"""Adapters that train together: each as if it were alone, in less time."""

import errno
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter
from petune.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    Interrupted,
    OutputFolderError,
    ResourceError,
)
from petune.sites.head import LabelLoss
from petune.training import checkpoints, one_pass
from petune.training.adapter_run import AdapterRun
from petune.training.events import Silent
from petune.training.loop import Loop
from petune.training.recipe import Recipe
from petune.training.result import Outcome
from petune.training.run import train
from petune.training.run_many import train_many

WALL_CLOCK = ("tokens_per_second", "peak_memory_bytes")

DIFFERENT: dict[str, dict[str, Any]] = {
    "low": {"method": "lora", "r": 3, "learning_rate": 2e-2},
    "few": {"method": "lora", "r": 3, "target_modules": "attention", "seed": 7, "num_train_epochs": 1},
    "wide": {"method": "lora", "r": 5, "lora_alpha": 3, "warmup_steps": 3},
    "prefix": {"method": "prefix_tuning", "num_virtual_tokens": 3, "per_device_train_batch_size": 1},
    "prompt": {
        "method": "prompt_tuning",
        "num_virtual_tokens": 4,
        "gradient_accumulation_steps": 3,
        "learning_rate": 3e-2,
        "lr_scheduler_type": "cosine",
    },
    "neck": {"method": "bottleneck", "bottleneck_size": 4, "tokens_per_step": 40, "max_grad_norm": 0.1},
}
"""Methods, rates, schedules, seeds, sizes of steps and numbers of steps."""


@pytest.fixture
def several(tmp_path: Path, keys: Callable[..., dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """The recipes of ``several(place, names, **changes)``, each with a folder in ``place``."""

    def make(place: str, names: Sequence[str] = tuple(DIFFERENT), **changes: Any) -> list[dict[str, Any]]:
        return [keys(**{"output_dir": str(tmp_path / place / n), **DIFFERENT[n], **changes}) for n in names]

    return make


def what_counts(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k not in WALL_CLOCK} for entry in history]


def close(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert len(first) == len(second)
    for ours, theirs in zip(what_counts(first), what_counts(second), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_each_adapter_learns_what_it_learns_alone(
    tmp_path: Path, tiny_base: Callable[..., Base], several: Callable[..., Any]
) -> None:
    evaluated = {"eval_data": str(tmp_path / "eval.jsonl"), "metrics": ["perplexity"]}
    outcomes = train_many(several("together", **evaluated), base=tiny_base())
    assert [outcome.name for outcome in outcomes] == list(DIFFERENT)
    steps = []
    for outcome, recipe in zip(outcomes, several("apart", **evaluated), strict=True):
        assert outcome.error is None
        assert outcome.result is not None
        alone = train(recipe, base=tiny_base())
        close(outcome.result.history, alone.history)
        steps.append(alone.steps)
        ours, theirs = (r.model.adapter(r.adapter_name).tensors() for r in (outcome.result, alone))
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)
        folders = [{path.name for path in r.output_dir.iterdir()} for r in (outcome.result, alone)]
        assert folders[0] == folders[1]
        assert (outcome.result.kept_step, outcome.result.train_report) == (alone.kept_step, alone.train_report)
    assert len(set(steps)) >= 4


@pytest.mark.parametrize(
    "changes",
    [{"new_tokens": ["<film>"]}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}],
    ids=["new tokens", "copies", "updates"],
)
def test_what_adapters_learn_at_the_head_is_their_own(
    changes: dict[str, Any], tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., dict[str, Any]]
) -> None:
    data = [tmp_path / f"{name}.jsonl" for name in "ab"]
    for path, answer in zip(data, ("xy", "abcdef"), strict=True):
        rows = [{"prompt": f"{'n' * (i % 3)} is", "completion": answer * (1 + i % 2)} for i in range(6)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def recipes(place: str) -> list[dict[str, Any]]:
        own = [{"data": str(path), "output_dir": str(tmp_path / place / path.stem)} for path in data]
        return [keys(**recipe, method="lora", r=2, seed=i, **changes) for i, recipe in enumerate(own)]

    for outcome, recipe in zip(train_many(recipes("together"), base=tiny_base()), recipes("apart"), strict=True):
        assert outcome.result is not None, outcome.error
        alone = train(recipe, base=tiny_base())
        close(outcome.result.history, alone.history)
        ours, theirs = (r.model.adapter(r.adapter_name).tensors() for r in (outcome.result, alone))
        for name, tensor in theirs.items():
            torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-4)


def names_of(outcomes: list[Outcome]) -> list[str]:
    return [outcome.name for outcome in outcomes if outcome.error is None]


def spoil(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """Make the loss of one row of adapter ``name`` NaN at its ``step``."""
    accumulate, label_loss = Loop._accumulate, LabelLoss.__call__
    now: list[Any] = []

    def noted(this: Loop, batch: Any, *more: Any) -> torch.Tensor:
        now[:] = batch
        return accumulate(this, batch, *more)

    def spoilt(this: Any, *arguments: Any) -> torch.Tensor:
        losses = label_loss(this, *arguments)
        of_tokens = len(losses) > len(now)  # rows that lie end to end
        runs = [owner.run for owner, row in now for _ in (row.input_ids if of_tokens else [row])]
        bad = [i for i, r in enumerate(runs) if r.adapter.name == name and r.progress.step == step - 1]
        return losses.clone().index_fill(0, torch.tensor(bad[:1]), float("nan")) * 1.0 if bad else losses

    monkeypatch.setattr(Loop, "_accumulate", noted)
    monkeypatch.setattr(LabelLoss, "__call__", spoilt)


@pytest.mark.parametrize("names", [("low", "few", "prefix"), ("low", "few", "wide")], ids=str)
def test_a_nan_stops_its_own_adapter_alone(
    names: tuple[str, ...],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    several: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_base()
    with monkeypatch.context() as patch:
        spoil(patch, "few", 3)
        outcomes = train_many(several("together", names, save_steps=1), base=base)
    assert names_of(outcomes) == [names[0], names[2]]
    failed = outcomes[1]
    assert failed.result is None
    assert isinstance(failed.error, DivergedError)
    assert "the loss is nan at step 3, in rows " in str(failed.error)
    assert "few/checkpoint-2. Lower --learning-rate" in str(failed.error)
    assert checkpoints.steps_in(tmp_path / "together" / "few") == [1, 2]
    assert not (tmp_path / "together" / "few" / "petune.json").exists()
    assert json.loads((tmp_path / "together" / "few" / "trainer_state.json").read_text())["global_step"] == 2
    for outcome, recipe in zip(outcomes, several("apart", names), strict=True):
        if outcome.result is not None:
            assert list(outcome.result.model.adapters) == [names[0], names[2]]
            close(outcome.result.history, train(recipe, base=tiny_base()).history)
    detach_all(outcomes)
    assert train(several("together", ["few"], save_steps=1)[0], base=base, resume=True).steps == 4


class Heard(Silent):
    """Counts how often it was told that no more steps come."""

    def __init__(self) -> None:
        self.times = 0

    def ended(self) -> None:
        """Count."""
        self.times += 1


def test_whoever_follows_one_that_fails_is_told_of_its_end(
    tiny_base: Callable[..., Base], several: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    followers = {"low": Heard(), "few": Heard()}
    following = {name: [own] for name, own in followers.items()}
    spoil(monkeypatch, "few", 2)
    assert names_of(train_many(several("together", ("low", "few")), base=tiny_base(), listeners=following)) == ["low"]
    assert {name: own.times for name, own in followers.items()} == {"low": 1, "few": 1}


def detach_all(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.result is not None:
            outcome.result.model.detach(outcome.name)


def test_an_error_of_one_at_its_end_is_its_own(
    tmp_path: Path, tiny_base: Callable[..., Base], several: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_run = one_pass.save_run

    def full(result: Any, summary: Any) -> None:
        if result.adapter_name == "few":
            raise ResourceError("no space left")
        save_run(result, summary)

    monkeypatch.setattr(one_pass, "save_run", full)
    outcomes = train_many(several("together", ("few", "low")), base=tiny_base())
    assert names_of(outcomes) == ["low"]
    assert str(outcomes[0].error) == "no space left"
    assert (tmp_path / "together" / "low" / "petune.json").exists()


def test_a_full_disk_stops_the_adapter_whose_it_is(
    tmp_path: Path, tiny_base: Callable[..., Base], several: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode == "a" and "few" in path.parts:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    outcomes = train_many(several("together", ("few", "low")), base=tiny_base())
    assert names_of(outcomes) == ["low"]
    assert isinstance(outcomes[0].error, ResourceError)


def test_one_that_stops_early_leaves_the_others_alone(
    tmp_path: Path, tiny_base: Callable[..., Base], several: Callable[..., Any]
) -> None:
    early = {"eval_data": str(tmp_path / "eval.jsonl"), "eval_steps": 1, "early_stopping_patience": 2}
    recipes = several("together", ("low", "few"), **early)
    recipes[1] |= {"learning_rate": 1e-30, "num_train_epochs": 2}
    outcomes = train_many(recipes, base=tiny_base())
    steps = [outcome.result.steps for outcome in outcomes if outcome.result is not None]
    alone = [train({**r, "output_dir": f"{r['output_dir']}-alone"}, base=tiny_base()).steps for r in recipes]
    assert steps == alone
    assert steps[1] == 3


def test_stopped_and_resumed_they_go_on_as_if_never_stopped(
    tmp_path: Path, tiny_base: Callable[..., Base], several: Callable[..., Any], signal_at: Callable[..., Any]
) -> None:
    names, noise = ("low", "few", "prompt"), {"low": {"lora_dropout": 0.2}, "few": {"lora_dropout": 0.2}}

    def recipes(place: str) -> list[dict[str, Any]]:
        return [{**r, **noise.get(n, {})} for n, r in zip(names, several(place, names), strict=True)]

    whole = train_many(recipes("whole"), base=tiny_base())
    for stop in (2, 6):  # the second one after one of them has ended
        listeners = {"low": [signal_at(stop)]}
        with pytest.raises(Interrupted, match=rf"at step {stop} of 8; saved .*low.checkpoint-{stop}.*resume=True"):
            train_many(recipes("run"), base=tiny_base(), resume=stop > 2, listeners=listeners)
        torch.manual_seed(stop)  # whatever happened in between
    resumed = train_many(recipes("run"), base=tiny_base(), resume=True)
    for first, second in zip(whole, resumed, strict=True):
        assert first.result is not None
        assert second.result is not None
        assert what_counts(first.result.history) == what_counts(second.result.history)
        files = [r.output_dir / "adapter_model.safetensors" for r in (first.result, second.result)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_without_a_checkpoint_begins(
    tiny_base: Callable[..., Base], several: Callable[..., Any], signal_at: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    names = ("low", "few")
    with pytest.raises(CheckpointError, match="none of low, few has a checkpoint to resume from"):
        train_many(several("run", names), base=tiny_base(), resume=True)
    with pytest.raises(Interrupted):
        train_many(several("run", ["low"]), base=tiny_base(), listeners={"low": [signal_at(3)]})
    with caplog.at_level(logging.WARNING, "petune"):
        outcomes = train_many(several("run", names), base=tiny_base(), resume=True)
    assert "no checkpoint of few: begun anew" in caplog.text
    for outcome, recipe in zip(outcomes, several("apart", names), strict=True):
        assert outcome.result is not None
        close(outcome.result.history, train(recipe, base=tiny_base()).history)
    with pytest.raises(CheckpointError, match=r"few: .*trained with other settings: r is 4, was 3"):
        train_many([several("run", ["low"])[0], {**several("run", ["few"])[0], "r": 4}], base=tiny_base(), resume=True)


def test_an_interrupted_pass_gives_the_base_back(
    tiny_base: Callable[..., Base], several: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    base = tiny_base()
    with monkeypatch.context() as patch:
        patch.setattr(AdapterRun, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_many(several("run", ("low", "prefix", "prompt")), base=base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())
    assert names_of(train_many(several("run", ("low", "prefix")), base=base, overwrite=True)) == ["low", "prefix"]


def test_fp16_scales_are_each_adapters_own(tiny_base: Callable[..., Base], several: Callable[..., Any]) -> None:
    names = ("low", "few", "prefix")
    outcomes = train_many(several("together", names), base=tiny_base(dtype=torch.float16))
    for outcome, recipe in zip(outcomes, several("apart", names), strict=True):
        assert outcome.result is not None
        alone = train(recipe, base=tiny_base(dtype=torch.float16))
        assert outcome.result.train_loss == pytest.approx(alone.train_loss, rel=0.02)


def test_recomputed_activations_change_nothing(tiny_base: Callable[..., Base], several: Callable[..., Any]) -> None:
    names = ("low", "few", "prompt")
    plain, again = (
        train_many(several(place, names, gradient_checkpointing=on), base=tiny_base())
        for place, on in (("plain", False), ("again", True))
    )
    for first, second in zip(plain, again, strict=True):
        assert first.result is not None
        assert second.result is not None
        close(second.result.history, first.result.history)


def test_heads_of_their_own(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], write_rows: Callable[..., Path]
) -> None:
    rows = [{"text": f"row {'x' * i}", "label": "odd" if i % 2 else "even"} for i in range(9)]
    data = str(write_rows(tmp_path / "labels.jsonl", rows))

    def base() -> Base:
        return tiny_base("bert", task="sequence_classification", labels=("even", "odd"))

    def recipe(place: str, name: str, **changes: Any) -> dict[str, Any]:
        return keys(data=data, num_train_epochs=1, output_dir=str(tmp_path / place / name), **changes)

    own = {"a": {"seed": 1}, "b": {"method": "prefix_tuning", "seed": 2, "learning_rate": 0.1}}
    outcomes = train_many([recipe("together", name, **c) for name, c in own.items()], base=base())
    for outcome in outcomes:
        assert outcome.result is not None
        close(outcome.result.history, train(recipe("apart", outcome.name, **own[outcome.name]), base=base()).history)
        fresh = base()
        loaded = load_adapter(outcome.result.output_dir, fresh).tensors()
        trained = outcome.result.model.adapter(outcome.name).tensors()
        assert all(torch.equal(trained[name], tensor) for name, tensor in loaded.items())


def test_names_and_reports(tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    told: list[tuple[str, int]] = []
    recipes = [keys(max_steps=1, output_dir=str(tmp_path / place / "same")) for place in ("a", "b")]
    outcomes = train_many(
        recipes, base=tiny_base(), on_data=lambda name, train, _: told.append((name, train.rows_kept))
    )
    assert [outcome.name for outcome in outcomes] == [recipe["output_dir"] for recipe in recipes]
    assert told == [(recipe["output_dir"], 13) for recipe in recipes]
    assert outcomes[0].recipe == Recipe.parse(recipes[0])
    (only,) = train_many([keys(max_steps=1)], base=tiny_base())
    assert only.result is not None
    assert only.result.model.active == ("run",)


def test_what_cannot_begin_is_told_by_name(tmp_path: Path, keys: Callable[..., Any]) -> None:
    nowhere = str(tmp_path / "no-such-model")

    def recipe(name: str, **changes: Any) -> dict[str, Any]:
        return keys(model=nowhere, task="causal_lm", output_dir=str(tmp_path / name), **changes)

    with pytest.raises(ConfigError, match="no recipe to train with"):
        train_many([])
    with pytest.raises(ConfigError, match=r"2 recipes would write to .*a; give each an output_dir of its own"):
        train_many([recipe("a"), recipe("a")])
    with pytest.raises(DataError, match=r"^b: .*no-such\.jsonl"):
        train_many([recipe("a"), recipe("b", data=str(tmp_path / "no-such.jsonl"))])
    with pytest.raises(ConfigError, match=r"listeners of 'bb', but the adapters are a, b"):
        train_many([recipe("a"), recipe("b")], listeners={"bb": []})
    (tmp_path / "c").touch()
    with pytest.raises(OutputFolderError, match=r"^c: .*c is a file; give a folder"):
        train_many([recipe("a"), recipe("c")])
    with pytest.raises(
        ConfigError, match=r"the recipe has several adapters, which train together: use petune\.train_many"
    ):
        train({"adapters": {"a": {}}})


def test_adapters_of_experts_cannot_share_a_pass(
    tiny_base: Callable[..., Base], several: Callable[..., list[dict[str, Any]]]
) -> None:
    base = tiny_base()
    base.structure.experts = ("model.layers.0.mlp",)
    with pytest.raises(ConfigError, match=r"'low' adapts 'model\.layers\.0\.mlp.*', one of the experts in .* train"):
        train_many(several("many", ("low", "few"), max_steps=1), base=base)
    assert all(outcome.error is None for outcome in train_many(several("one", ("low",), max_steps=1), base=base))
