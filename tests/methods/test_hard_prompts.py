"""Hard prompts: the best candidate is chosen, saved without a number, and used like any other adapter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune import api
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.cli.reporting import print_result
from petune.errors import ConfigError, DataError
from petune.training.run import train

TEXTS = ("a joy", "dull and long", "a film to see twice", "no", "well made", "a bore")
TEMPLATES = ("{{ text }}\nLabel:", "Q: {{ text }} A:", "{{ text }} so")
VERBALIZERS = ({"pos": "good", "neg": "bad"}, {"pos": "yes", "neg": "no"})


@pytest.fixture
def data(tmp_path: Path, write_rows: Callable[..., Path]) -> str:
    rows = [{"text": text, "label": ("pos", "neg")[i % 2]} for i, text in enumerate(TEXTS)]
    return str(write_rows(tmp_path / "rows.jsonl", rows))


@pytest.fixture
def keys(tmp_path: Path, data: str) -> dict[str, Any]:
    return {"data": data, "output_dir": str(tmp_path / "run"), "method": "hard_prompts"}


@torch.no_grad()
def shares(base: Base, template: str, words: dict[str, str]) -> list[dict[str, float]]:
    """Write the label comparison out: p(word, end | prompt), one full forward pass for each."""
    found = []
    for text in TEXTS:
        prompt = template.replace("{{ text }}", text)
        scores = {}
        for label, word in words.items():
            start = len(base.tokenizer(prompt)["input_ids"])
            ids = [*base.tokenizer(f"{prompt} {word}")["input_ids"], base.tokenizer.eos_token_id]
            logs = base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            scores[label] = sum(logs[t - 1, ids[t]].item() for t in range(start, len(ids)))
        values = torch.tensor(list(scores.values()), dtype=torch.float64).softmax(0).tolist()
        found.append(dict(zip(scores, values, strict=True)))
    return found


def test_the_best_pair_is_kept_and_used(
    keys: dict[str, Any], data: str, tmp_path: Path, tiny_base: Callable[..., Base], capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_base()
    wanted = {"templates": TEMPLATES, "verbalizers": VERBALIZERS, "eval_data": data, "metrics": ["f1"]}
    result = train({**keys, **wanted}, base=base)

    pairs = [(template, words) for template in TEMPLATES for words in VERBALIZERS]
    truth = ["pos", "neg"] * 3
    oracle = []
    for (template, words), candidate in zip(pairs, result.candidates, strict=True):
        rows = shares(base, template, words)
        accuracy = sum(max(row, key=row.__getitem__) == label for row, label in zip(rows, truth, strict=True)) / 6
        loss = -sum(torch.tensor(row[label]).log().item() for row, label in zip(rows, truth, strict=True)) / 6
        oracle.append((accuracy, -loss))
        assert candidate.form == {"template": template, "verbalizer": words}
        assert candidate.metrics["accuracy"] == pytest.approx(accuracy)
        assert candidate.metrics["label_loss"] == pytest.approx(loss, abs=1e-3)
        assert 0 <= candidate.metrics["f1"] <= 1
    best = oracle.index(max(oracle))
    assert [candidate.chosen for candidate in result.candidates] == [i == best for i in range(6)]

    print_result(result)
    printed = capsys.readouterr().out
    assert printed.count("label_loss ") == 6
    assert f"* accuracy {oracle[best][0]:.4f}" in printed
    assert "\n6 candidates in " in printed

    model = api.load(tmp_path / "run", base=tiny_base())
    assert model.adapter("default").num_parameters() == 0
    template, words = pairs[best]
    measured = api.evaluate(model, data, metrics=["accuracy"])
    assert measured.metrics["accuracy"] == pytest.approx(oracle[best][0])
    expected = [max(row, key=row.__getitem__) for row in shares(base, template, words)]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for source in (data, str(bare)):  # labels are known from training
        predictions = api.predict(model, source)
        assert [p.prediction for p in predictions] == expected
        assert set(predictions[0].probabilities or {}) == {"pos", "neg"}


def test_the_folder(keys: dict[str, Any], tmp_path: Path, tiny_base: Callable[..., Base]) -> None:
    train({**keys, "templates": TEMPLATES[:2]}, base=tiny_base())
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"petune.json", "adapter_model.safetensors", "README.md", "recipe.yaml", "metrics.jsonl"} <= names
    assert "adapter_config.json" not in names
    manifest = json.loads((tmp_path / "run" / "petune.json").read_text())
    assert manifest["config"]["templates"] == list(TEMPLATES[:2])
    assert manifest["data_format"]["template"] in TEMPLATES[:2]
    assert manifest["data_format"]["labels"] == ["neg", "pos"]
    assert manifest["training"]["chosen"] == {"template": manifest["data_format"]["template"]}
    assert manifest["training"]["steps"] == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["template"] for line in lines] == list(TEMPLATES[:2])
    assert all("eval_accuracy" in line for line in lines)
    assert "0 numbers, none learned: chosen with hard prompts" in (tmp_path / "run" / "README.md").read_text()


def test_without_candidates_it_is_the_run_s_own_template(
    keys: dict[str, Any], data: str, tiny_base: Callable[..., Base]
) -> None:
    result = train({**keys, "template": "{{ text }}?", "eval_data": f"{data}#4"}, base=tiny_base())
    (candidate,) = result.candidates
    assert candidate.form == {}
    assert result.eval_metrics == candidate.metrics
    assert result.eval_report is not None
    assert result.eval_report.rows_kept == 4
    assert result.train_loss is None
    assert result.model.adapter("default").data_format["template"] == "{{ text }}?"


@pytest.mark.parametrize(("metric", "lower"), [("auto", True), ("exact_match", False), ("loss", True)])
def test_rows_of_text_are_judged_by_loss_or_by_what_is_generated(
    metric: str,
    lower: bool,
    keys: dict[str, Any],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    write_rows: Callable[..., Path],
) -> None:
    rows = [{"prompt": f"{text} is", "completion": f" {text[::-1]}"} for text in TEXTS]
    keys["data"] = str(write_rows(tmp_path / "pairs.jsonl", rows))
    templates = ["{{ prompt }}", "Say: {{ prompt }}"]
    result = train({**keys, "templates": templates, "selection_metric": metric}, base=tiny_base())
    name = "loss" if metric == "auto" else metric
    values = [candidate.metrics[name] for candidate in result.candidates]
    assert next(iter(result.candidates[0].metrics)) == name
    best = values.index(min(values) if lower else max(values))
    assert [candidate.chosen for candidate in result.candidates] == [i == best for i in range(2)]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"templates": ["{{ text }} so", "{{ txt }}"]}, DataError, r"slot 'txt', which is no column\. Did you mean"),
        ({"templates": ["{{ text"]}, DataError, "--template line 1"),
        ({"verbalizers": [{"pos": "good", "negg": "bad"}]}, DataError, r"'neg' has no word .*Did you mean 'negg'\?"),
        ({"verbalizers": [{"pos": "good", "neg": "good"}]}, DataError, "'good' stands for two labels"),
        ({"verbalizers": [{"pos": "good"}]}, DataError, "a word for each of at least two labels"),
        ({"selection_metric": "acuracy"}, ConfigError, "unknown metric 'acuracy'"),
        ({"learning_rte": 1}, ConfigError, "unknown key 'learning_rte' for method hard_prompts"),
    ],
)
def test_mistakes_are_told_before_the_base_loads(
    settings: dict[str, Any], error: type[Exception], message: str, keys: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        train({**keys, **settings, "model": "no/such-model"})


def test_it_leaves_the_base_alone(tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]) -> None:
    base, ids = tiny_base(), token_ids(2, 6)
    before = base.model(input_ids=ids).logits
    model = api.AdaptedModel(base, [create_adapter(base, "hard_prompts")])
    assert torch.equal(model(input_ids=ids).logits, before)
    assert "trainable params: 0 ||" in model.parameter_summary()
