"""A whole run: what it learns, keeps, restores and writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter
from petune.errors import ConfigError, DataError, MissingExtraError, OutputFolderError
from petune.training import checkpoints, drafts, one_pass
from petune.training.recipe import Recipe
from petune.training.run import train


def test_it_learns_and_the_folder_holds_what_it_learned(
    method: str, tmp_path: Path, tiny_base_for: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    # A random base has no features to point at, so that virtual tokens alone can do little there.
    rate, share = {
        "bitfit": (2e-2, 0.9),
        "bottleneck": (2e-2, 0.8),
        "full": (3e-3, 0.6),
        "ia3": (5e-2, 0.9),
        "llama_adapter": (1e-1, 0.95),
        "lora": (2e-2, 0.6),
        "p_tuning": (1e-2, 0.95),
        "p_tuning_v2": (1e-1, 0.95),
        "prefix_tuning": (1e-1, 0.95),
        "prompt_tuning": (1e-1, 0.95),
    }[method]
    base = tiny_base_for(method)
    result = train(keys(method=method, num_train_epochs=10, learning_rate=rate), base=base)
    assert result.train_loss < share * result.history[0]["loss"]
    assert result.steps == 40
    assert result.model.active == ("default",)
    assert not result.model.training
    assert not any(p.requires_grad for p in result.model.parameters())
    assert result.train_report.rows_kept == 13
    assert result.peak_memory > 10**6
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        live = result.model(input_ids=ids).logits
        fresh = tiny_base_for(method)
        loaded = AdaptedModel(fresh, [load_adapter(result.output_dir, fresh)])
        assert torch.equal(loaded(input_ids=ids).logits, live)
    written = json.loads((tmp_path / "run" / "train_results.json").read_text())
    assert written["steps"] == 40
    assert written["train_loss"] == result.train_loss
    manifest = json.loads((tmp_path / "run" / "petune.json").read_text())
    assert manifest["training"] == written
    assert Recipe.read(tmp_path / "run" / "recipe.yaml").run.num_train_epochs == 10


def test_the_same_seed_gives_the_same_adapter(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = keys(seed=seed, lora_dropout=0.1, output_dir=str(tmp_path / name), num_train_epochs=1)
        files.append((train(options, base=tiny_base()).output_dir / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("by_rows", [True, False])
def test_micro_batches_change_no_gradient(
    by_rows: bool, tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    whole = keys(per_device_train_batch_size=4, gradient_accumulation_steps=1, output_dir=str(tmp_path / "whole"))
    split = keys(per_device_train_batch_size=1, gradient_accumulation_steps=4) if by_rows else {
        **whole, "max_tokens_per_batch": 20, "output_dir": str(tmp_path / "run")
    }  # fmt: skip
    first, second = train(whole, base=tiny_base()), train(split, base=tiny_base())
    for a, b in zip(first.history, second.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_logged_loss_is_the_mean_over_label_tokens(tiny_base: Callable[..., Base], keys: Callable[..., Any]) -> None:
    base = tiny_base()
    options = keys(max_steps=1, per_device_train_batch_size=13, gradient_accumulation_steps=1, train_on="all")
    logged = train(options, base=base).history[0]["loss"]
    rows = [json.loads(line) for line in Path(options["data"]).read_text().splitlines()]
    total, count = 0.0, 0
    fresh = tiny_base()
    for row in rows:
        ids = fresh.tokenizer(row["prompt"] + row["completion"])["input_ids"]
        ids = torch.tensor([[*ids, fresh.tokenizer.eos_token_id]])
        with torch.no_grad():
            logits = fresh.model(input_ids=ids).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    assert logged == pytest.approx(total / count, rel=1e-5)


def test_best_evaluation_is_kept_and_restored(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5, 2.6, 2.7])

    def evaluation(*_: Any) -> Callable[..., dict[str, float]]:
        return lambda _: {"loss": next(losses)}

    monkeypatch.setattr(one_pass, "validation", evaluation)
    options = keys(max_steps=6, eval_steps=1, save_total_limit=1, validation_split=2)
    result = train(options, base=tiny_base())
    assert checkpoints.steps_in(tmp_path / "run") == [2, 6]
    best = checkpoints.load(tmp_path / "run" / "checkpoint-2").masters
    assert all(torch.equal(t, best[n]) for n, t in result.model.adapter("default").tensors().items())
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_global_step"] == 2
    assert state["best_metric"] == 1.0
    assert state["best_model_checkpoint"] == "checkpoint-2"
    assert state["global_step"] == state["max_steps"] == 6
    assert [e["eval_loss"] for e in state["log_history"] if "eval_loss" in e] == [3.0, 1.0, 2.0, 2.5, 2.6, 2.7]
    assert result.eval_metrics == {"loss": 1.0}, "of the adapter that is kept"
    assert (result.steps, result.kept_step) == (6, 2)


@pytest.mark.parametrize(
    ("metric", "values", "patience", "steps"),
    [
        ("loss", [3.0, 2.0, 2.0, 2.5, 1.0], 2, 4),
        ("accuracy", [0.5, 0.4, 0.6, 0.6, 0.1, 0.9], 2, 5),
        ("perplexity", [9.0, 8.0, 7.0, 6.0, 5.0, 4.0], 1, 6),
        ("loss", [float("nan"), float("nan"), 1.0], 2, 2),
        ("loss", [float("nan"), 2.0, 3.0, 3.0], 2, 4),
    ],
)
def test_early_stopping(
    metric: str, values: list[float], patience: int, steps: int, tiny_base: Callable[..., Base],
    keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    measured = iter(values)
    monkeypatch.setattr(one_pass, "validation", lambda *_: lambda _: {metric: next(measured)})
    options = keys(
        max_steps=6, eval_steps=1, metric_for_best_model=metric, metrics=[] if metric == "loss" else [metric],
        early_stopping_patience=patience, load_best_model_at_end=False, validation_split=2,
    )  # fmt: skip
    assert train(options, base=tiny_base()).steps == steps


def test_evaluates_each_epoch_on_validation_rows(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    reports: list[Any] = []
    result = train(
        keys(eval_data=str(tmp_path / "eval.jsonl")), base=tiny_base(), on_data=lambda *both: reports.extend(both)
    )
    assert [e["step"] for e in result.history if "eval_loss" in e] == [4, 8]
    assert result.eval_metrics["loss"] > 0
    assert [r.rows_kept for r in reports] == [13, 3]
    assert json.loads((tmp_path / "run" / "data_report.json").read_text()).keys() == {"train", "eval"}


@pytest.mark.parametrize("trained", ["lora", "prefix_tuning"])
def test_a_model_that_bounds_its_scores_trains(
    trained: str, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    result = train(keys(method=trained), base=tiny_base("gemma2", attn_logit_softcapping=20.0))
    assert result.train_loss < result.history[0]["loss"]


def test_gradient_checkpointing_changes_nothing_but_memory(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    plain = train(keys(), base=tiny_base())
    again = train(keys(gradient_checkpointing=True, output_dir=str(tmp_path / "again")), base=tiny_base())
    assert [e["loss"] for e in again.history] == pytest.approx([e["loss"] for e in plain.history], rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "measured"),
    [
        ("perplexity", []),
        ("rows", ["mine.py:rows"]),
        ("mine.py:rows", ["mine.py:rows"]),
        ("a", ["mine.py:several"]),
    ],
)
def test_metrics_that_may_decide_which_is_best(
    metric: str, measured: list[str], tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    (tmp_path / "mine.py").write_text(
        "def rows(predictions, references):\n    return len(references)\n"
        "def several(predictions, references):\n    return {'a': 1, 'b': 2}\n"
    )
    names = [str(tmp_path / name) for name in measured]
    best = str(tmp_path / metric) if ":" in metric else metric
    data = str(tmp_path / "eval.jsonl")
    result = train(keys(max_steps=1, eval_data=data, metrics=names, metric_for_best_model=best), base=tiny_base())
    assert result.history[-1][f"eval_{metric.rpartition(':')[2]}"] > 0
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert state["best_metric"] == result.history[-1][f"eval_{metric.rpartition(':')[2]}"]


@pytest.mark.parametrize(("greater", "kept"), [(None, 3), (True, 3), (False, 1)])
def test_of_a_metric_of_one_s_own_less_may_be_better(
    greater: bool | None, kept: int, tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def errors(predictions, references):\n"
        "    calls = Path(__file__).with_name('calls')\n"
        "    calls.write_text(calls.read_text() + 'x' if calls.exists() else 'x')\n"
        "    return len(calls.read_text())\n"
    )
    data, metric = str(tmp_path / "eval.jsonl"), f"{tmp_path / 'mine.py'}:errors"
    own = {"metrics": [metric], "metric_for_best_model": metric, "greater_is_better": greater}
    result = train(keys(max_steps=3, eval_steps=1, eval_data=data, **own), base=tiny_base())
    assert result.kept_step == kept
    metrics = [entry["eval_errors"] for entry in result.history if "eval_errors" in entry]
    assert metrics == sorted(metrics)


def test_a_best_metric_that_nobody_measures(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    (tmp_path / "mine.py").write_text("def rows(predictions, references):\n    return len(references)\n")
    own = {"metrics": [f"{tmp_path / 'mine.py'}:rows"], "metric_for_best_model": "row"}
    with pytest.raises(
        ConfigError, match=r"metric_for_best_model is 'row', which is not measured; measured are loss, rows"
    ):
        train(keys(max_steps=1, eval_data=str(tmp_path / "eval.jsonl"), **own), base=tiny_base())


def test_bad_input_is_told_before_anything_loads(tmp_path: Path, keys: Callable[..., Any]) -> None:
    nowhere = str(tmp_path / "no-such-model")
    with pytest.raises(ConfigError, match="no training data: give --data"):
        train({"model": nowhere})
    with pytest.raises(DataError, match=r"no-such\.jsonl"):
        train(keys(model=nowhere, data=str(tmp_path / "no-such.jsonl")))
    with pytest.raises(ConfigError, match=r"unknown metric 'acuracy'; .*Did you mean 'accuracy'"):
        train(keys(model=nowhere, metrics=["acuracy"], validation_split=2))
    (tmp_path / "file").touch()
    with pytest.raises(OutputFolderError, match=r"file is a file; give a folder"):
        train(keys(model=nowhere, output_dir=str(tmp_path / "file")))


def test_metrics_of_a_head_are_refused_where_a_model_writes(
    tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=r"metric 'tag_accuracy' compares tags, which a head marks"):
        train(keys(max_steps=1, metrics=["tag_accuracy"], validation_split=2), base=tiny_base())


def test_missing_tracker_names_the_extra(keys: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(drafts._TRACKERS, "wandb", lambda: False)
    with pytest.raises(MissingExtraError, match=r"--report-to wandb needs .*pip install 'petune\[wandb\]'"):
        train(keys(report_to=["wandb"]))


def test_output_into_the_base_is_refused(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    made = tiny_base()
    (tmp_path / "run").mkdir()
    base = Base.from_model(made.model, made.tokenizer, name=str(tmp_path / "run"))
    with pytest.raises(OutputFolderError, match="base model's own folder"):
        train(keys(), base=base)


def test_validation_rows_that_begin_with_one_label_are_compared_with_all(
    tmp_path: Path, tiny_base: Callable[..., Base], keys: Callable[..., Any], write_rows: Callable[..., Path]
) -> None:
    rows = [{"text": f"film {n}", "label": "bad"} for n in range(20)] + [{"text": "joy", "label": "good"}] * 3
    train_rows = [{"text": f"plot {n}", "label": ("good", "bad", "odd")[n % 3]} for n in range(6)]
    files = {"data": str(write_rows(tmp_path / "t.jsonl", train_rows))}
    files["eval_data"] = str(write_rows(tmp_path / "v.jsonl", rows))
    result = train(keys(max_steps=2, metrics=["accuracy"], **files), base=tiny_base(), estimate=True)
    assert result.estimate is not None
    assert 0 <= result.eval_metrics["accuracy"] <= 1


def test_the_rate_that_is_told_is_that_of_most_parameters(
    tiny_base: Callable[..., Base], keys: Callable[..., Any]
) -> None:
    own = {"*.lora_A": 1e-5}
    history = train(keys(max_steps=1, warmup_steps=0, module_learning_rates=own), base=tiny_base()).history
    assert history[0]["learning_rate"] == pytest.approx(1e-2)
