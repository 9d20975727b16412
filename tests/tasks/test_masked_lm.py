"""Answers filled in by encoders: against the formula, through every kind of method, trained and asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from petune import api
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.data.loading import load_examples
from petune.data.options import DataOptions
from petune.errors import BaseModelError, ConfigError, DataError
from petune.evaluation.cloze import MaskedLikelihood
from petune.evaluation.options import EvaluationOptions
from petune.tasks.registry import TASKS
from petune.training.run import train

Make = Callable[..., str]
TASK = TASKS["masked_lm"]
TEXTS = ("a dull film", "a joy", "so long", "the film was so good and the film was great")
LABELS = ("bad", "good")
ROWS = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(TEXTS)]
WORDS = {"bad": "dull", "good": "great"}
TEMPLATE = "{{ text }} it was {{ mask }}."


@pytest.fixture(params=["bert", "roberta"])
def base(request: pytest.FixtureRequest, tiny_model: Callable[..., Any], word_tokenizer: Callable[..., Any]) -> Base:
    """A base that was trained with masks, whose words are one token each."""
    return Base.from_model(tiny_model(request.param), word_tokenizer(request.param), name=f"tiny-{request.param}")


@pytest.fixture
def options(rows: Make) -> DataOptions:
    """How the rows are read, with a gap of their own."""
    return DataOptions(data=rows(ROWS), template=TEMPLATE, verbalizer=WORDS)


def ids(base: Base, text: str) -> list[int]:
    """Return the ids of a row's text, the mask and special tokens included."""
    return list(base.tokenizer(text)["input_ids"])


def at_the_mask(base: Base, logits: torch.Tensor, row: list[int]) -> torch.Tensor:
    """Return the log-probabilities [masks, V] at the masks of one row."""
    places = [t for t, token in enumerate(row) if token == base.tokenizer.mask_token_id]
    return logits[places].log_softmax(-1)


def word_id(base: Base, word: str) -> int:
    (token,) = base.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    return int(token)


def measured(model: AdaptedModel, options: DataOptions) -> tuple[float, list[tuple[float, ...]]]:
    """Return the loss of the rows, and the scores of their labels."""
    examples = load_examples(TASK.reading(options), model.tokenizer)
    loss = TASK.evaluate(model, examples, EvaluationOptions(metrics=("loss",))).metrics["loss"]
    _, choices = MaskedLikelihood().measure(model, None, examples, LABELS, batch_tokens=40)
    return loss, [choice.log_probabilities for choice in choices]


def assert_scores(found: tuple[float, list[tuple[float, ...]]], expected: list[torch.Tensor], base: Base) -> None:
    """Compare with the log-probabilities [1, V] at the mask of each row."""
    words = [word_id(base, WORDS[label]) for label in LABELS]
    loss, scores = found
    for i, (own, row) in enumerate(zip(scores, expected, strict=True)):
        assert own == pytest.approx([float(row[0, word]) for word in words], abs=1e-4)
        assert len(own) == 2, i
    right = [float(row[0, words[i % 2]]) for i, row in enumerate(expected)]
    assert loss == pytest.approx(-sum(right) / len(right), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("method", [None, "lora", "prefix_tuning", "bottleneck"])
def test_scores_are_those_of_the_words_at_the_mask(
    method: str | None, base: Base, options: DataOptions, randomise: Callable[..., Adapter]
) -> None:
    model = AdaptedModel(base, [randomise(create_adapter(base, method))] if method else [])
    expected = []
    for text in TEXTS:
        row = ids(base, f"{text} it was <mask>.")
        expected.append(at_the_mask(base, model(input_ids=torch.tensor([row])).logits[0], row))
    assert_scores(measured(model, options), expected, base)


def test_the_loss_and_the_words_at_the_mask_come_from_one_pass(base: Base, options: DataOptions) -> None:
    model = AdaptedModel(base)
    examples = load_examples(TASK.reading(options), model.tokenizer)
    ran: list[int] = []
    handle = base.model.register_forward_pre_hook(lambda m, a, k: ran.append(len(k["input_ids"])), with_kwargs=True)
    both = TASK.evaluate(model, examples, EvaluationOptions(metrics=("loss", "accuracy"))).metrics
    assert sum(ran) == len(examples)
    handle.remove()
    for name, value in both.items():
        alone = TASK.evaluate(model, examples, EvaluationOptions(metrics=(name,))).metrics
        assert alone[name] == pytest.approx(value, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        ("{p*3} {text} {p*2} it was: {mask}", ["3", "{text}", "2", " it was:<mask>"]),
        ("{p*2} {mask} {p} {text} {p*2}", ["2", "<mask>", "1", " {text}", "2"]),
        ("{text} was {mask}. {p*5}", ["{text} was<mask>.", "5"]),
    ],
)
def test_virtual_tokens_anywhere_equal_embeddings_written_out(
    template: str, pieces: list[str], base: Base, rows: Make, randomise: Callable[..., Adapter]
) -> None:
    adapter = randomise(create_adapter(base, "p_tuning", prompt_template=template))
    virtual = adapter.baked().tensors()["source.prompt_embeddings"]
    table, tokenizer = base.model.get_input_embeddings(), base.tokenizer
    expected = []
    for text in TEXTS:
        parts, taken = [table(torch.tensor([tokenizer.cls_token_id]))], 0
        places: list[int] = []
        for piece in pieces:
            if piece.isdigit():
                parts.append(virtual[taken : taken + int(piece)])
                taken += int(piece)
                continue
            own = tokenizer(piece.replace("{text}", text), add_special_tokens=False)["input_ids"]
            start = sum(map(len, parts))
            places += [start + t for t, token in enumerate(own) if token == tokenizer.mask_token_id]
            parts.append(table(torch.tensor(own)))
        parts.append(table(torch.tensor([tokenizer.sep_token_id])))
        logits = base.model(inputs_embeds=torch.cat(parts)[None]).logits[0]
        expected.append(logits[places].log_softmax(-1))
        assert (taken, len(places)) == (5, 1)
    found = measured(AdaptedModel(base, [adapter]), DataOptions(data=rows(ROWS), verbalizer=WORDS))
    assert_scores(found, expected, base)


def test_the_loss_is_the_models_own_and_so_is_its_gradient(base: Base, options: DataOptions) -> None:
    examples = load_examples(TASK.reading(options), base.tokenizer)
    rows = TASK.encode(examples, base.tokenizer, labels=(), max_length=99).rows
    weight = base.model.get_output_embeddings().weight.requires_grad_()
    objective = TASK.objective(base.model, lambda module: False)
    for row in rows:
        inputs, labels = {"input_ids": torch.tensor([row.input_ids])}, torch.tensor([row.labels])
        ours, theirs = objective(inputs, labels)[0], base.model(**inputs, labels=labels).loss
        torch.testing.assert_close(ours, theirs)
        gradients = [torch.autograd.grad(loss, weight)[0] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_words_of_several_tokens_fill_as_many_masks(
    tiny_model: Callable[..., Any], word_tokenizer: Callable[..., PreTrainedTokenizerFast], rows: Make
) -> None:
    base = Base.from_model(tiny_model("bert"), word_tokenizer("bert"), name="tiny")
    words = {"bad": "terrible", "good": "so good"}
    options = DataOptions(data=rows(ROWS), template=TEMPLATE, verbalizer=words)
    _, scores = measured(AdaptedModel(base), options)
    for text, own in zip(TEXTS, scores, strict=True):
        row = ids(base, f"{text} it was <mask><mask>.")
        logs = at_the_mask(base, base.model(input_ids=torch.tensor([row])).logits[0], row)
        for label, score in zip(LABELS, own, strict=True):
            tokens = base.tokenizer(words[label], add_special_tokens=False)["input_ids"]
            assert score == pytest.approx(float(logs[0, tokens[0]] + logs[1, tokens[1]]), abs=1e-4)


def test_a_gap_read_in_parts(base: Base, rows: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"bad": "so good and long", "good": "joy and so great"}
    options = DataOptions(data=rows(ROWS), template=TEMPLATE, verbalizer=words)
    loss, scores = measured(AdaptedModel(base), options)
    monkeypatch.setattr("petune.evaluation.head.MAX_LOGITS", 2 * base.model.config.vocab_size)
    seen: list[int] = []
    base.model.get_output_embeddings().register_forward_hook(lambda m, i, o: seen.append(o.shape[1]))
    in_parts, again = measured(AdaptedModel(base), options)
    assert max(seen) == 2
    assert in_parts == pytest.approx(loss, rel=1e-5)
    for own, expected in zip(again, scores, strict=True):
        assert own == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ensemble", ["average", "vote"])
def test_prompts_of_an_ensemble_answer_together(
    ensemble: str, base: Base, options: DataOptions, randomise: Callable[..., Adapter]
) -> None:
    settings = {"num_virtual_tokens": 3, "num_prompts": 3, "ensemble": ensemble}
    whole = randomise(create_adapter(base, "prompt_tuning", **settings), scale=1.0)
    prompts = whole.tensors()["source.prompt_embeddings"]
    members = []
    for i in range(3):
        one = create_adapter(base, "prompt_tuning", num_virtual_tokens=3)
        one.load_tensors({"source.prompt_embeddings": prompts[3 * i : 3 * i + 3]})
        _, scores = measured(AdaptedModel(base, [one]), options)
        members.append(torch.tensor(scores, dtype=torch.float64).softmax(-1))
    examples = load_examples(TASK.reading(options), base.tokenizer)
    _, found = MaskedLikelihood().measure(AdaptedModel(base, [whole]), None, examples, LABELS, batch_tokens=8192)
    mean = torch.stack(members).mean(0)
    torch.testing.assert_close(
        torch.tensor([c.probabilities for c in found], dtype=torch.float64), mean, rtol=1e-3, atol=1e-4
    )
    if ensemble == "vote":
        votes = torch.stack(members).argmax(-1).mode(0).values
        assert [LABELS.index(c.label) for c in found] == votes.tolist()


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("lora", {"template": TEMPLATE, "learning_rate": 2e-2}),
        ("prefix_tuning", {"template": TEMPLATE}),
        ("p_tuning_v2", {"template": TEMPLATE}),
        ("prompt_tuning", {"template": TEMPLATE, "placement": "append"}),
        ("p_tuning", {"prompt_template": "{p*3} {text} {p*3} it was {mask}."}),
        ("p_tuning", {"prompt_template": "{p*3} {mask} {p*3} {text}", "encoder_reparameterization_type": "LSTM"}),
        ("llama_adapter", {"template": "{{ mask }}: {{ text }}", "learning_rate": 5e-2}),
        ("bottleneck", {"template": TEMPLATE}),
        ("ia3", {"template": TEMPLATE}),
        ("bitfit", {"template": TEMPLATE}),
        ("full", {"template": TEMPLATE, "learning_rate": 1e-3}),
        ("hard_prompts", {"templates": [TEMPLATE, "{{ mask }}: {{ text }}"], "verbalizers": [WORDS]}),
    ],
)
def test_trained_saved_loaded_and_asked(
    method: str,
    settings: dict[str, Any],
    rows: Make,
    tmp_path: Path,
    tiny_model: Callable[..., Any],
    word_tokenizer: Callable[..., Any],
) -> None:
    folder = tmp_path / "bert"
    tiny_model("bert").save_pretrained(folder)
    word_tokenizer("bert").save_pretrained(folder)
    data, bare = rows(ROWS), rows([{"text": row["text"]} for row in ROWS], "bare")
    own = {} if method == "hard_prompts" else {"verbalizer": WORDS, "max_steps": 25, "logging_steps": 1}
    recipe = {"model": str(folder), "task": "masked_lm", "dtype": "float32", "data": data, "eval_data": data}
    result = train({**recipe, "method": method, **own, "output_dir": str(tmp_path / "out"), **settings})
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert not losses or losses[-1] < 0.97 * losses[0]
    live = api.predict(result.model, bare)
    model = api.load(tmp_path / "out", dtype="float32")
    assert model.base.task == "masked_lm"
    again = api.predict(model, bare)
    assert {a.prediction for a in again} <= set(LABELS)
    for ours, theirs in zip(live, again, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
    found = api.evaluate(model, data)
    assert list(found.metrics) == ["loss", "accuracy", "f1"]
    if method != "hard_prompts":
        assert found.metrics["loss"] == pytest.approx(result.eval_metrics["loss"], rel=1e-4)


def test_a_resumed_run_goes_on_exactly(
    rows: Make, tmp_path: Path, tiny_model: Callable[..., Any], word_tokenizer: Callable[..., Any]
) -> None:
    def run(folder: str, steps: int, *, resume: bool = False) -> dict[str, torch.Tensor]:
        base = Base.from_model(tiny_model("roberta"), word_tokenizer("roberta"), name="tiny")
        recipe = {"data": rows(ROWS), "verbalizer": WORDS, "method": "p_tuning", "output_dir": str(tmp_path / folder)}
        settings = {"prompt_template": "{p*2} {mask} {p} {text}", "num_train_epochs": 2, "save_steps": 1}
        limits = {"per_device_train_batch_size": 2, "lr_scheduler_type": "constant"}
        result = train({**recipe, **settings, **limits, "max_steps": steps}, base=base, resume=resume)
        return result.model.adapter("default").tensors()

    whole = run("whole", 4)
    recipe_of = tmp_path / "part" / "recipe.yaml"
    run("part", 2)
    recipe_of.write_text(recipe_of.read_text().replace("max_steps: 2", "max_steps: 4"))
    resumed = run("part", 4, resume=True)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@torch.no_grad()
def test_answers_that_are_no_labels_are_any_token(base: Base, rows: Make) -> None:
    facts = [{"a": "film", "b": "great"}, {"a": "joy", "b": "long"}]
    options = {"template": "the {{ a }} was {{ mask }} .", "target": " {{ b }}"}
    model = AdaptedModel(base)
    answers = api.predict(model, rows([{"a": "film"}, {"a": "joy"}], "bare"), **options)
    for answer, fact in zip(answers, facts, strict=True):
        row = ids(base, f"the {fact['a']} was <mask> .")
        logs = at_the_mask(base, base.model(input_ids=torch.tensor([row])).logits[0], row)[0]
        logs[base.tokenizer.all_special_ids] = -torch.inf
        assert answer.prediction == base.tokenizer.decode([int(logs.argmax())]).strip()
    metrics = ("loss", "exact_match", "accuracy")
    found = api.evaluate(model, rows(facts, "facts"), metrics=metrics, labels=("great", "long"), **options)
    assert tuple(found.metrics) == metrics
    assert found.metrics["exact_match"] == sum(a.prediction == f["b"] for a, f in zip(answers, facts, strict=True)) / 2
    assert found.labels == ("great", "long")


def test_a_gap_in_the_middle_is_for_bases_that_fill_in(tiny_base: Callable[..., Base], rows: Make) -> None:
    for base in (tiny_base("llama"), tiny_base("bert", task="sequence_classification", labels=LABELS)):
        with pytest.raises(ConfigError, match=r"goes on after \{mask\}, and a .* does not fill an answer in"):
            create_adapter(base, "p_tuning", prompt_template="{p} {mask} {text}")
    model = AdaptedModel(tiny_base("llama"))
    with pytest.raises(DataError, match=r"--template goes on after \{\{ mask \}\}, but the task causal_lm"):
        api.evaluate(model, rows(ROWS), template=TEMPLATE)
    for placement in ("prepend", "append"):  # at the end it says what holds without it
        model.attach(create_adapter(model.base, "prompt_tuning", name=placement, placement=placement))
        model.activate(placement)
        last = api.evaluate(model, rows(ROWS), template="{{ text }} was {{ mask }}").metrics
        assert last == api.evaluate(model, rows(ROWS), template="{{ text }} was").metrics


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"rows.jsonl:1: nothing says where its answer stands; write \{\{ mask \}\} where"),
        ({"template": "{{ text }} was"}, "rows.jsonl:1: nothing says where its answer stands"),
        ({"template": "{{ mask }} {{ text }} {{ mask }}"}, "twice"),
        (
            {"template": TEMPLATE, "method": "p_tuning", "prompt_template": "{p} {text} {mask}"},
            "rows.jsonl:1: its answer has 2 places",
        ),
        ({"template": TEMPLATE, "chat": "on"}, "--chat on writes turns, and the task masked_lm fills one answer in"),
        ({"template": TEMPLATE, "train_on": "all"}, "--train-on all learns every token, and the task masked_lm"),
    ],
)
def test_mistakes_are_told_before_the_weights_load(
    keys: dict[str, Any], message: str, rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    folder = base_folder("bert")
    (Path(folder) / "model.safetensors").write_bytes(b"no weights")
    recipe = {"model": folder, "task": "masked_lm", "data": rows(ROWS), "output_dir": str(tmp_path / "out")}
    with pytest.raises(DataError, match=message):
        train({**recipe, **keys})


def test_other_bases_have_no_masks(rows: Make, base_folder: Make, tmp_path: Path) -> None:
    recipe = {"model": base_folder("llama"), "task": "masked_lm", "data": rows(ROWS), "template": TEMPLATE}
    with pytest.raises(BaseModelError, match=r"kind decoder .llama., which cannot be loaded for masked_lm"):
        train({**recipe, "output_dir": str(tmp_path / "out")})


def test_rows_longer_than_the_model(base: Base, rows: Make) -> None:
    model = AdaptedModel(base)
    base.model.config.max_position_embeddings = 18
    long = rows([{"text": "so long " * 9, "label": "bad"}, *ROWS], "long")
    with pytest.raises(DataError, match=r"1 of 5 rows are longer than the model's 1[78] tokens: .*long.jsonl:1"):
        api.predict(model, long, template=TEMPLATE)
