"""One adapter for several tasks at once, each with a head of its own."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from petune import api, methods
from petune.adapted_model import AdaptedModel
from petune.backbone.base import Base, load_base
from petune.backbone.further_heads import HeadSpec
from petune.data.batching import collate
from petune.errors import BaseMismatchError, ConfigError, DataError, Interrupted
from petune.training import checkpoints, drafts, one_pass
from petune.training.events import Silent, Step
from petune.training.run import train
from petune.training.run_many import train_many

Make = Callable[..., str]
TEXTS = [{"prompt": f"{word} is", "completion": f" {word[::-1]}"} for word in ("red", "green", "blue", "amber", "teal")]
TAGS = ("O", "B-LOC", "B-PER")


@pytest.fixture
def recipe(rows: Make, base_folder: Make, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """The keys of a short run for reviews, entities and questions: ``recipe("bert", max_steps=6)``."""

    def make(architecture: str = "bert", **changes: Any) -> dict[str, Any]:
        files = {what: rows(what, what) for what in ("reviews", "entities", "questions")}
        return {
            "model": base_folder(architecture),
            "method": "p_tuning_v2",
            "prefix_dropout": 0.0,
            "num_virtual_tokens": 4,
            "dtype": "float32",
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "output_dir": str(tmp_path / "out"),
            "tasks": [
                {"name": "sentiment", "task": "sequence_classification", "data": files["reviews"]},
                {"name": "ner", "task": "token_classification", "data": files["entities"]},
                {"name": "qa", "task": "question_answering", "data": files["questions"]},
            ],
            **changes,
        }

    return make


class Tasks(Silent):
    """Notes the task and the loss of each step; sends this process a signal once step ``stop`` is done."""

    def __init__(self, stop: int | None = None) -> None:
        self.names: list[str] = []
        self.losses: list[float] = []
        self._stop = stop

    def stepped(self, step: Step) -> None:
        """Note it."""
        self.names.append(step.task)
        self.losses.append(step.loss)
        if step.step == self._stop:
            os.kill(os.getpid(), signal.SIGTERM)


FILES = {"sentiment": "reviews", "ner": "entities", "qa": "questions"}


def entries(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the keys with these tasks alone."""
    return {**keys, "tasks": [entry for entry in keys["tasks"] if entry["name"] in names]}


def plain_losses(
    base: Base, rows: dict[str, list[Any]], order: list[tuple[str, list[int]]], rate: float
) -> list[float]:
    """Train every parameter with AdamW, a step a task, and return the loss of each step."""
    models: dict[str, PreTrainedModel] = {
        name: base.heads[name].model if name in base.heads else base.model for name in rows
    }
    parameters = list(base.model.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    losses = []
    for name, indices in order:
        batch = collate([rows[name][i] for i in indices], pad_token_id=0)
        labels = batch.pop("labels")
        logits = models[name](**batch).logits
        if name == "text":  # each token is told from those before it
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("architecture", "first"), [("bert", "ner"), ("gpt2", "text")])
def test_losses_are_those_of_a_plain_loop(
    architecture: str, first: str, recipe: Callable[..., dict[str, Any]], rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"method": "full", "learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_ratio": 0.0}
    keys = recipe(architecture, max_grad_norm=0, tokens_per_step=120, **options)
    keys = {k: v for k, v in keys.items() if k not in ("prefix_dropout", "num_virtual_tokens")}
    keys["tasks"].append({"name": "text", "task": "causal_lm", "data": rows(TEXTS, "texts")})
    keys = entries(keys, "sentiment", first)
    for entry in keys["tasks"]:
        entry["weight"] = 2 if entry["name"] == "sentiment" else 1
    seen, found = Tasks(), {}

    def kept(adapter: Any, own: Any, *rest: Any) -> Any:
        found["rows"] = own
        found["run"] = made(adapter, own, *rest)
        return found["run"]

    made = one_pass.AdapterRun
    monkeypatch.setattr(one_pass, "AdapterRun", kept)
    result = train(keys, listeners=[seen])
    assert seen.names == ["sentiment", first, "sentiment", "sentiment", first, "sentiment"]

    task = {"sentiment": "sequence_classification", "ner": "token_classification", "text": "causal_lm"}
    labels = {"sentiment": ("neg", "pos"), "ner": TAGS, "text": ()}
    own, further = (first, "sentiment") if first == "text" else ("sentiment", first)
    head = HeadSpec(further, task[further], labels[further])  # type: ignore[arg-type]
    base = load_base(keys["model"], task=task[own], labels=labels[own], heads=[head], dtype="float32")  # type: ignore[arg-type]
    assert set(result.model.base.heads) == {further}
    order = [found["run"].schedule.rows(step)[1] for step in range(6)]
    assert [found["rows"][step[0]].task for step in order] == seen.names
    named = dict.fromkeys(("sentiment", first), found["rows"])
    assert seen.losses == pytest.approx(
        plain_losses(base, named, list(zip(seen.names, order, strict=True)), 1e-3), abs=1e-5
    )


def test_a_list_of_one_task_is_the_ordinary_run(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = entries(recipe(prefix_dropout=0.1), "ner")
    named, ordinary = Tasks(), Tasks()
    (entry,) = keys.pop("tasks")
    train({**keys, "tasks": [entry]}, listeners=[named])
    train(
        {**keys, "task": entry["task"], "data": entry["data"], "output_dir": str(tmp_path / "b")}, listeners=[ordinary]
    )
    assert named.losses == ordinary.losses
    weights = [tmp_path / folder / "adapter_model.safetensors" for folder in ("out", "b")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert api.evaluate(api.load(tmp_path / "out", task_name="ner"), entry["data"]).metrics == (
        api.evaluate(api.load(tmp_path / "b"), entry["data"]).metrics
    )


@pytest.mark.parametrize("method", [name for name in methods.names() if methods.get(name).trains])
def test_every_method_carries_several_heads(method: str, recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = {k: v for k, v in recipe(method=method).items() if k not in ("prefix_dropout", "num_virtual_tokens")}
    result = train(keys)
    tensors = result.model.adapter("default").tensors()
    heads = {name.partition(".")[0] for name in tensors} - {"bert", "source"}
    assert heads == {"classifier", "task_ner", "task_qa"}
    whole = api.load(tmp_path / "out", dtype="float32")
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in whole.adapter("default").tensors().items())
    for name, file in FILES.items():
        data = tmp_path / f"{file}.jsonl"
        expected = api.predict(result.model, data, task_name=name)
        alone = api.load(tmp_path / "out", task_name=name, dtype="float32")
        assert alone.base.heads == {}
        assert alone.adapter("default").tasks == ()
        assert [a.to_dict() for a in api.predict(alone, data)] == [a.to_dict() for a in expected]
        assert api.evaluate(whole, data, task_name=name).metrics == api.evaluate(alone, data).metrics


def test_language_modelling_and_classification_share_a_decoder(
    recipe: Callable[..., dict[str, Any]], rows: Make, tmp_path: Path
) -> None:
    keys = entries(recipe("llama"), "sentiment")
    keys["tasks"] += [
        {"name": name, "data": rows(TEXTS, name), "task": "causal_lm", "template": "{{ prompt }}", "target": target}
        for name, target in (("text", "{{ completion }}"), ("shout", "{{ completion | upper }}"))
    ]
    result = train(keys)
    assert (result.model.base.task, set(result.model.base.heads)) == ("causal_lm", {"sentiment"})
    for name in ("text", "shout"):  # one head, and rows written in two ways
        alone = api.load(tmp_path / "out", task_name=name, dtype="float32")
        assert api.predict(alone, tmp_path / "text.jsonl")[0].reference == ("DER" if name == "shout" else "der")
    reviews = tmp_path / "reviews.jsonl"
    alone = api.load(tmp_path / "out", task_name="sentiment", dtype="float32")
    assert api.evaluate(alone, reviews).metrics == api.evaluate(result.model, reviews, task_name="sentiment").metrics
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_data_sets_of_one_language_model_are_kept_as_peft_keeps_them(
    tiny_base: Callable[..., Base], rows: Make, tmp_path: Path
) -> None:
    data = rows(TEXTS, "texts")
    tasks = [{"name": "a", "data": data}, {"name": "b", "data": data, "train_on": "all", "eval_data": data}]
    keys = {"method": "lora", "tasks": tasks, "max_steps": 2, "output_dir": str(tmp_path / "out")}
    base = tiny_base()
    result = train(keys, base=base)
    assert (tmp_path / "out" / "adapter_config.json").exists()
    assert [task.head for task in result.model.adapter("default").tasks] == [None, None]
    assert set(result.eval_metrics) == {"loss", "b/loss"}
    assert api.generate(result.model, ["red is"])[0].text is not None
    with pytest.raises(ConfigError, match=r"was trained for a, b; say with task_name \(--task-name\) which one"):
        api.evaluate(result.model, data)
    assert api.evaluate(result.model, data, task_name="a").metrics["loss"] > 0
    result.model.detach("default")
    loaded = api.load(tmp_path / "out", base=base, task_name="b")
    assert loaded.adapter("default").tasks == ()


def test_a_resumed_run_goes_on_as_if_never_stopped(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = recipe(prefix_dropout=0.2, max_steps=8)
    for entry, weight in zip(keys["tasks"], (3, 2, 1), strict=True):
        entry |= {"weight": weight, "eval_data": entry["data"]}
    whole = train({**keys, "output_dir": str(tmp_path / "whole")})
    for stop in (1, 5):  # the questions' head has not been learned before the first
        with pytest.raises(Interrupted):
            train(keys, resume=stop > 1, listeners=[Tasks(stop)])
    resumed = train(keys, resume=True)
    first, second = (checkpoints.load(r.output_dir / "checkpoint-8") for r in (whole, resumed))
    for kind in ("masters", "optimizer", "random"):
        expected, got = getattr(first, kind), getattr(second, kind)
        assert expected.keys() == got.keys()
        assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())
    clock = ("tokens_per_second", "peak_memory_bytes")
    histories = [[{k: v for k, v in e.items() if k not in clock} for e in r.history] for r in (whole, resumed)]
    assert histories[0] == histories[1]


def test_records_tell_of_each_task(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = entries(recipe(max_steps=None, num_train_epochs=1, logging_steps=4), "sentiment", "ner")
    keys["tasks"][0] |= {"validation_split": 4, "metrics": ["accuracy"]}
    keys["tasks"][1] |= {"eval_data": keys["tasks"][1]["data"], "metrics": ["entity_f1"]}
    reports = []
    result = train({**keys, "metric_for_best_model": "ner/entity_f1"}, on_data=lambda *pair: reports.append(pair))
    assert [(train.task, train.rows_kept, held_out.rows_kept) for train, held_out in reports] == [
        ("sentiment", 20, 4), ("ner", 12, 12),
    ]  # fmt: skip
    assert result.steps == 8  # five of four reviews, three of four sentences
    metrics = result.eval_metrics
    assert set(metrics) == {"loss", "sentiment/loss", "sentiment/accuracy", "ner/loss", "ner/entity_f1"}
    assert metrics["loss"] == pytest.approx(metrics["sentiment/loss"] * 5 / 8 + metrics["ner/loss"] * 3 / 8)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "sentiment/loss", "ner/loss"} <= lines[0].keys()
    data_report = json.loads((tmp_path / "out" / "data_report.json").read_text())
    assert data_report["tasks"]["ner"]["train"]["rows_kept"] == 12
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["best_metric"] == metrics["ner/entity_f1"]
    assert (result.train_report.rows_kept, result.train_report.lengths["max"]) == (32, 20)


def test_what_cannot_be_is_told_before_the_weights_load(
    recipe: Callable[..., dict[str, Any]], rows: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(drafts, "load_base", never)
    with pytest.raises(ConfigError, match=r"cannot carry the heads of 'sentiment' \(sequence_cl.* train them apart"):
        train(entries(recipe("t5"), "sentiment", "ner"))
    keys = recipe()
    keys["tasks"][0]["data"] = rows([{"text": "a", "label": "x"}], "one")
    with pytest.raises(DataError, match=r"task 'sentiment': .*the rows have 1 distinct label"):
        train(keys)
    keys = recipe()
    keys["tasks"][1]["data"] = keys["tasks"][0]["data"]
    with pytest.raises(DataError, match=r"task 'ner': .*learns from rows of tokens-tags; these are of text-label"):
        train(keys)
    with pytest.raises(ConfigError, match="task 'ner': metric 'accuracy' is not of the task token_classification"):
        train(entries(recipe(metrics=["accuracy"], validation_split=2), "ner"))
    keys = {k: v for k, v in recipe(method="hard_prompts").items() if k not in ("prefix_dropout", "num_virtual_tokens")}
    with pytest.raises(ConfigError, match="trains nothing, so it cannot be trained for several tasks"):
        train(keys)


def test_one_of_the_tasks_has_to_be_chosen(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = entries(recipe(max_steps=2), "sentiment", "ner")
    result = train(keys)
    out, data = tmp_path / "out", tmp_path / "entities.jsonl"
    with pytest.raises(ConfigError, match=r"was trained for sentiment, ner, not for 'nerr'.*Did you mean 'ner'\?"):
        api.load(out, task_name="nerr")
    with pytest.raises(ConfigError, match="was trained for sentiment, ner, not for 'nerr'"):
        api.predict(result.model, data, task_name="nerr")
    with pytest.raises(ConfigError, match="was trained for sentiment, ner; say with task_name"):
        api.predict(result.model, data)
    with pytest.raises(ConfigError, match="was trained for sentiment, ner; say with task_name"):
        api.merge(out, tmp_path / "merged")
    plain = load_base(keys["model"], task="token_classification", labels=TAGS)
    with pytest.raises(BaseMismatchError, match="has heads of their own for ner, and the base was loaded without"):
        api.load(out, base=load_base(keys["model"], task="sequence_classification", labels=["neg", "pos"]))
    assert api.load(out, base=plain, task_name="ner").base is plain
    with pytest.raises(ConfigError, match="the model is for one task, which has no name"):
        api.evaluate(AdaptedModel(plain), data, task_name="ner")
    with pytest.raises(ConfigError, match="there is no adapter that could have been trained for 'ner'"):
        api.load(base=plain, task_name="ner")


def test_a_merged_model_has_the_head_of_one_task(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    keys = {k: v for k, v in recipe(method="lora").items() if k not in ("prefix_dropout", "num_virtual_tokens")}
    train(keys)
    folder = api.merge(tmp_path / "out", tmp_path / "merged", task_name="ner", dtype="float32")
    data = tmp_path / "entities.jsonl"
    alone = api.load(tmp_path / "out", task_name="ner", dtype="float32")
    assert api.evaluate(api.load(base=folder, dtype="float32"), data).metrics["loss"] == pytest.approx(
        api.evaluate(alone, data).metrics["loss"], abs=1e-5
    )


def test_a_loaded_base_must_have_the_heads(recipe: Callable[..., dict[str, Any]]) -> None:
    keys = entries(recipe(max_steps=2), "sentiment", "ner")
    reviews, words = HeadSpec("sentiment", "sequence_classification", ("neg", "pos")), ("O", "B-LOC")
    base = load_base(keys["model"], task="token_classification", labels=words)
    with pytest.raises(ConfigError, match=r"'sentiment' is sequence_classification, but the base was loaded for token"):
        train(keys, base=base)
    with pytest.raises(ConfigError, match=r"'sentiment' .* needs another body than the base has"):
        load_base(keys["model"], task="token_classification", labels=TAGS, heads=[reviews])  # which has no pooler
    wrong = HeadSpec("ner", "token_classification", words)
    base = load_base(keys["model"], task=reviews.task, labels=reviews.labels, heads=[wrong])
    with pytest.raises(ConfigError, match="'ner' has rows of O, B-LOC, B-PER, and its head in the base tells O, B-LOC"):
        train(keys, base=base)
    base = load_base(keys["model"], task=reviews.task, labels=reviews.labels, heads=[HeadSpec("ner", wrong.task, TAGS)])
    assert train(keys, base=base).model.base is base
    same = [dict(keys["tasks"][0], name=name) for name in "ab"]
    with pytest.raises(ConfigError, match="tasks a, b would share the one head that the base was loaded with"):
        train({**keys, "tasks": same}, base=base, overwrite=True)


def test_new_tokens_and_recomputation_go_with_several_heads(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    keys = recipe(new_tokens=["<film>"], gradient_checkpointing=True)
    plain = train({**recipe(new_tokens=["<film>"]), "output_dir": str(tmp_path / "plain")})
    result = train(keys)
    first, second = ([entry["loss"] for entry in run.history if "loss" in entry] for run in (plain, result))
    assert first == pytest.approx(second, abs=1e-5)
    for name, file in FILES.items():
        data = tmp_path / f"{file}.jsonl"
        alone = api.load(tmp_path / "out", task_name=name, dtype="float32")
        assert alone.base.new_tokens == ("<film>",)
        assert api.evaluate(alone, data).metrics == api.evaluate(result.model, data, task_name=name).metrics


def test_an_encoder_fills_in_answers_beside_tagging_words(
    recipe: Callable[..., dict[str, Any]], rows: Make, tmp_path: Path
) -> None:
    keys = entries(recipe(), "ner")
    cloze = {"name": "cloze", "task": "masked_lm", "data": rows("reviews", "cloze")}
    written = {"template": "{{ text }} {{ mask }}", "verbalizer": {"pos": "a", "neg": "b"}}
    result = train({**keys, "tasks": [*keys["tasks"], {**cloze, **written}]})
    assert (result.model.base.task, set(result.model.base.heads)) == ("masked_lm", {"ner"})
    for name, file in (("cloze", "cloze"), ("ner", "entities")):
        alone = api.load(tmp_path / "out", task_name=name, dtype="float32")
        data = tmp_path / f"{file}.jsonl"
        assert api.evaluate(alone, data).metrics == api.evaluate(result.model, data, task_name=name).metrics


def test_two_adapters_for_the_same_tasks_share_a_pass(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    own: dict[str, dict[str, Any]] = {
        "a": {"learning_rate": 1e-2, "per_device_train_batch_size": 2},
        "b": {"num_virtual_tokens": 2, "max_steps": 4},
    }
    outcomes = train_many([recipe(**keys, output_dir=str(tmp_path / name)) for name, keys in own.items()])
    for outcome in outcomes:
        assert outcome.result is not None
        alone = train(recipe(**own[outcome.name], output_dir=str(tmp_path / "alone" / outcome.name)))
        losses = [[e["loss"] for e in result.history if "loss" in e] for result in (outcome.result, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        assert outcome.result.model.adapter(outcome.name).tasks == alone.model.adapter("default").tasks
    places = {name: str(tmp_path / "other" / name) for name in "ac"}
    first = entries(recipe(output_dir=places["a"]), "sentiment", "ner")
    second = entries(recipe(output_dir=places["c"]), "sentiment", "qa")
    with pytest.raises(ConfigError, match=r"task is sentiment .*, ner .* for a and sentiment .*, qa .* for c: adapter"):
        train_many([first, second])
