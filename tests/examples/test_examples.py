"""Every example and every recipe runs from start to end, on a tiny model."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import petune
from petune.backbone.base import Base
from petune.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if not path.stem.startswith("compare_"))
DATA = sorted((ROOT / "examples").glob("*.jsonl"))


@pytest.fixture
def save_tiny(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> Callable[..., str]:
    """Write a tiny model that takes rows as long as the examples', and return its folder."""

    def save(architecture: str, **sizes: int) -> str:
        tiny_tokenizer.model_max_length = 1024
        tiny_model(architecture, **sizes).save_pretrained(tmp_path / "tiny")
        tiny_tokenizer.save_pretrained(tmp_path / "tiny")
        return str(tmp_path / "tiny")

    return save


@pytest.fixture
def tiny_folder(save_tiny: Callable[..., str]) -> str:
    """Folder of a tiny llama."""
    return save_tiny("llama", max_position_embeddings=1024, num_hidden_layers=1)


def run_example(name: str, *arguments: str) -> None:
    """Call the ``main`` of an example with the arguments that the command line would give it."""
    runpy.run_path(str(ROOT / "examples" / name))["main"](*arguments)


def test_train_evaluate_and_merge(tiny_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [path.name for path in SCRIPTS] == [
        "evaluate_adapter.py", "fill_in.py", "merge_adapter.py", "several_tasks.py", "train_lora.py",
    ]  # fmt: skip
    adapter, merged = str(tmp_path / "adapter"), str(tmp_path / "merged")

    run_example("train_lora.py", tiny_folder, str(ROOT / "examples" / "reviews.jsonl"), adapter)
    printed = capsys.readouterr().out
    assert f"the adapter lies in {adapter}" in printed
    assert "48 read" in printed

    run_example("evaluate_adapter.py", adapter)
    printed = capsys.readouterr().out
    assert "accuracy: " in printed
    assert "f1: " in printed

    run_example("merge_adapter.py", adapter, merged)
    assert f"the merged model lies in {merged}" in capsys.readouterr().out
    assert (Path(merged) / "model.safetensors").is_file()


def test_several_tasks(save_tiny: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny("llama", max_position_embeddings=1024, num_hidden_layers=1)
    run_example("several_tasks.py", model, str(tmp_path / "adapter"))
    printed = capsys.readouterr().out
    assert re.search(r"sentiment/accuracy: \d\.\d{3}\n", printed)
    assert re.search(r"entities/entity_f1: \d\.\d{3}\n", printed)
    assert re.search(r"held-out reviews: \d\.\d{3}\n", printed)
    assert re.search(r"Ada/[\w-]+ Moreno/[\w-]+ moved/", printed)


def test_the_recipe_for_several_tasks(
    save_tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    model = save_tiny("llama", max_position_embeddings=1024, num_hidden_layers=1)
    overrides = {"model": model, "output_dir": str(tmp_path / "out"), "max_steps": 2}
    result = petune.train(Recipe.read(ROOT / "examples" / "several_tasks.yaml", overrides))
    assert {"sentiment/accuracy", "entities/entity_f1"} <= result.eval_metrics.keys()
    assert [(report.task, report.rows_read) for report, _ in result.reports] == [("sentiment", 48), ("entities", 30)]


def test_an_encoder_fills_in(
    tiny_base: Callable[..., Base], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, folder = tiny_base("roberta", max_position_embeddings=1030), tmp_path / "roberta"
    base.tokenizer.model_max_length = 1024
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    # A tokenizer of bytes, and words of equally many.
    run_example("fill_in.py", str(folder), str(ROOT / "examples" / "reviews.jsonl"), str(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert "⟦ great⟧" in printed or "⟦ awful⟧" in printed
    assert "'accuracy': " in printed
    assert " is positive, {" in printed or " is negative, {" in printed


def test_the_examples_were_found() -> None:
    assert [path.name for path in DATA] == ["chat.jsonl", "entities.jsonl", "reviews.jsonl", "reviews_test.jsonl"]
    assert [path.stem for path in RECIPES] == [info.name for info in petune.list_methods()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains(
    path: Path, save_tiny: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if "gpt2" in Recipe.read(path).run.model:
        model = save_tiny("gpt2", n_positions=1024, n_layer=1)
    else:
        model = save_tiny("llama", max_position_embeddings=1024, num_hidden_layers=1)
    recipe = Recipe.read(path, {"model": model, "output_dir": str(tmp_path / "out"), "max_steps": 2})
    result = petune.train(recipe)
    assert result.steps == (0 if result.candidates else 2)
    assert 0 <= result.eval_metrics["accuracy"] <= 1
    assert petune.load(result.output_dir).active == ("default",)


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_example_data_is_sound(path: Path, tiny_folder: str) -> None:
    task = "token_classification" if path.name == "entities.jsonl" else None
    report = petune.inspect_data(path, model=tiny_folder, task=task)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert report.rows_kept == report.rows_read == len(rows)
    layouts = {"messages": "messages", "tokens": "tokens-tags", "text": "text-label"}
    assert report.layout == layouts[next(iter(rows[0]))]
    assert len({json.dumps(row) for row in rows}) == len(rows)
    if report.layout == "text-label":
        labels = [row["label"] for row in rows]
        assert labels.count("positive") == labels.count("negative") == len(labels) / 2


def test_no_held_out_review_is_trained_on() -> None:
    texts = [
        {json.loads(line)["text"] for line in (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()}
        for name in ("reviews.jsonl", "reviews_test.jsonl")
    ]
    assert texts[0].isdisjoint(texts[1])
