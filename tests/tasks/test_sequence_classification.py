"""One label for a text: training, files, prediction, on every kind of base."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from petune import api
from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.data.batching import collate
from petune.data.encoding import Encoded
from petune.data.examples import Example, ExampleSet
from petune.errors import BaseMismatchError, BaseModelError, ConfigError, DataError
from petune.tasks.registry import TASKS
from petune.training.run import train

Make = Callable[..., str]
TASK = TASKS["sequence_classification"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]


def example(text: str, label: str | None = None) -> Example:
    return Example(f"x:{text[:8]}", (), text, label, label, {"text": text}, add_special_tokens=True)


@pytest.mark.parametrize(
    ("method", "architecture"),
    [
        *((m, a) for m in ("lora", "prefix_tuning", "full") for a in ("bert", "llama", "t5")),
        ("prompt_tuning", "bert"),
        ("bottleneck", "bert"),
    ],
)
def test_trained_saved_loaded_and_asked(
    method: str, architecture: str, rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    data = rows("reviews")
    result = train(
        {
            "model": base_folder(architecture),
            "task": "sequence_classification",
            "data": data,
            "method": method,
            "dtype": "float32",
            "max_steps": 3,
            "learning_rate": 1e-2,
            "output_dir": str(tmp_path / "out"),
        }
    )
    live = api.predict(result.model, data)
    assert result.model.base.labels == ("neg", "pos")
    manifest = json.loads((tmp_path / "out" / "petune.json").read_text())
    assert (manifest["task"], manifest["labels"]) == ("sequence_classification", ["neg", "pos"])
    model = api.load(tmp_path / "out", dtype="float32")
    again = api.predict(model, data)
    assert [p.prediction for p in again] == [p.prediction for p in live]
    for ours, theirs in zip(live, again, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-5)
        assert sum(theirs.probabilities.values()) == pytest.approx(1)
    measured = api.evaluate(model, data)
    assert list(measured.metrics) == ["loss", "accuracy", "f1"]
    right = sum(p.prediction == p.reference for p in again) / len(again)
    assert measured.metrics["accuracy"] == pytest.approx(right)
    result.model.detach("default")
    untrained = create_adapter(result.model.base, method).tensors()
    head = [name for name in model.adapters["default"].tensors() if name.startswith(model.base.structure.head)]
    assert head
    assert all(not torch.equal(model.adapters["default"].tensors()[name], untrained[name]) for name in head)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str, architecture: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture, task="sequence_classification", labels=("a", "b", "c"))
    if (architecture, side) == ("bert", "left"):
        pytest.skip("an encoder counts positions from the first column, so it is padded on the right")
    base.model.config.pad_token_id = base.tokenizer.pad_token_id = 1  # as where the end-of-text token pads
    texts = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
    batch = collate([Encoded(ids, [0], "") for ids in texts], pad_token_id=1, side=side)
    batch.pop("labels")
    if side == "left":
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = base.model(**batch).logits
    alone = [base.model(input_ids=torch.tensor([ids])).logits[0] for ids in texts]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_rows_of_one_batch_have_heads_of_their_own(
    tiny_base: Callable[..., Base], randomise: Callable[..., object], token_ids: Callable[..., torch.Tensor]
) -> None:
    base = tiny_base("bert", task="sequence_classification", labels=("a", "b"))
    adapters = [randomise(create_adapter(base, m, name=m), seed=i) for i, m in enumerate(("lora", "prefix_tuning"))]
    model, ids = AdaptedModel(base, adapters), token_ids(3, 8)
    with model.route(["lora", None, "prefix_tuning"]):
        mixed = model(input_ids=ids).logits
    for i, name in enumerate(("lora", None, "prefix_tuning")):
        model.activate(*([name] if name else []))
        torch.testing.assert_close(model(input_ids=ids[i : i + 1]).logits[0], mixed[i], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "distilbert", "llama"])
@pytest.mark.parametrize("method", ["lora", "prefix_tuning"])
def test_hf_peft_reads_the_folder_and_we_read_theirs(
    method: str,
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., object],
    token_ids: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    def fresh() -> Base:
        return tiny_base(architecture, task="sequence_classification", labels=("a", "b", "c"))

    base, ids = fresh(), token_ids(3, 8)
    model = AdaptedModel(base, [randomise(create_adapter(base, method))])
    live = model(input_ids=ids).logits
    folder = save_adapter(model, tmp_path / "ours")
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    if (method, architecture) == ("prefix_tuning", "distilbert"):
        return  # PEFT itself cannot run it there
    theirs = peft.PeftModel.from_pretrained(fresh().model, folder).eval()
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits, live, rtol=1e-4, atol=1e-4)
    theirs.save_pretrained(tmp_path / "theirs")
    again = fresh()
    adapter = load_adapter(tmp_path / "theirs", again)
    torch.testing.assert_close(AdaptedModel(again, [adapter])(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


def test_a_folder_of_peft_says_its_task_and_counts_its_classes(base_folder: Make, tmp_path: Path) -> None:
    folder = base_folder("roberta")
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS")).save_pretrained(tmp_path / "theirs")
    loaded = api.load(tmp_path / "theirs", base=folder)
    assert (loaded.base.task, loaded.base.labels) == ("sequence_classification", ("LABEL_0", "LABEL_1", "LABEL_2"))


def test_an_adapter_on_a_base_of_another_task(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    base = tiny_base("llama", task="sequence_classification", labels=("a", "b"))
    folder = save_adapter(AdaptedModel(base, [create_adapter(base, "lora")]), tmp_path / "out")
    with pytest.raises(
        BaseMismatchError, match=r"trained for sequence_classification \(a, b\), .*loaded for causal_lm"
    ):
        load_adapter(folder, tiny_base("llama"))
    with pytest.raises(BaseMismatchError, match=r"loaded for sequence_classification \(b, a\)"):
        load_adapter(folder, tiny_base("llama", task="sequence_classification", labels=("b", "a")))


def test_virtual_tokens_of_an_encoder_decoder_stay_in_its_encoder(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base("t5", task="sequence_classification", labels=("a", "b"))
    with pytest.raises(BaseModelError, match="T5ForSequenceClassification gives its decoder its encoder's tokens"):
        create_adapter(base, "prompt_tuning")


def test_text_is_not_generated_with_a_head(tiny_base: Callable[..., Base]) -> None:
    model = AdaptedModel(tiny_base("bert", task="sequence_classification", labels=("a", "b")))
    with pytest.raises(ConfigError, match="a BertForSequenceClassification writes no text; use petune predict"):
        api.generate(model, ["hello"])


def test_encoding(tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base("bert").tokenizer
    rows = ExampleSet([example("abcdef", "b"), example("ab", "a")], source="x", layout="text-label")
    whole = TASK.encode(rows, tokenizer, labels=("a", "b"), max_length=9)
    assert [row.labels for row in whole.rows] == [[1], [0]]
    assert [len(row.input_ids) for row in whole.rows] == [8, 4]
    cut = TASK.encode(rows, tokenizer, labels=("a", "b"), max_length=5, overlong="truncate")
    assert tokenizer.decode(cut.rows[0].input_ids) == "<s>abc</s>"
    assert (cut.report.rows_cut, cut.report.example) == (1, "<s>abc</s> ⟦b⟧")
    kept = TASK.encode(rows, tokenizer, labels=("a", "b"), max_length=5, overlong="drop")
    assert [row.labels for row in kept.rows] == [[0]]
    assert sum(kept.report.dropped.values()) == 1


def test_rows_that_cannot_be_used(
    tiny_base: Callable[..., Base], rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    tokenizer = tiny_base("llama").tokenizer
    never_seen = ExampleSet([example("x", "good")], source="x.jsonl", layout="text-label")
    with pytest.raises(
        DataError, match=r"label that the head does not know; the first is 'good' at x:x.* are neg, pos"
    ):
        TASK.encode(never_seen, tokenizer, labels=("neg", "pos"), max_length=9)
    empty = ExampleSet([example("", "pos")], source="x.jsonl", layout="text-label")
    with pytest.raises(DataError, match="no token to classify in x:"):
        TASK.encode(empty, tokenizer, labels=("neg", "pos"), max_length=9)
    long = ExampleSet([example("x" * 20, "pos")], source="x.jsonl", layout="text-label")
    with pytest.raises(DataError, match=r"1 of 1 rows are longer than 9 tokens \(the longest has 20.*--overlong drop"):
        TASK.encode(long, tokenizer, labels=("neg", "pos"), max_length=9)
    same = [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]
    recipe = {"model": base_folder("bert"), "data": rows(same, "same"), "output_dir": str(tmp_path / "never")}
    with pytest.raises(DataError, match=r"1 distinct label \(x\); a classification needs two at least"):
        train(recipe)
    with pytest.raises(DataError, match=r"--verbalizer gives words .* head has no words: leave"):
        train({**recipe, "data": rows("reviews"), "verbalizer": {"pos": "great", "neg": "bad"}})
    with pytest.raises(
        ConfigError, match="metric 'bleu' is not of the task sequence_classification; choose from loss, a"
    ):
        train({**recipe, "data": rows("reviews"), "metrics": ["bleu"], "validation_split": 4})


def test_labels_are_those_of_the_head(tiny_base: Callable[..., Base], rows: Make) -> None:
    model = AdaptedModel(tiny_base("bert", task="sequence_classification", labels=("neg", "pos")))
    with pytest.raises(ConfigError, match="labels are a, b, but the head of this model tells neg, pos apart"):
        api.evaluate(model, rows("reviews"), labels=("a", "b"))
    unlabelled = rows([{"text": "fine"}], "unlabelled")
    assert api.predict(model, unlabelled)[0].reference is None
    with pytest.raises(DataError):
        api.evaluate(model, unlabelled)


@pytest.mark.parametrize(
    ("head", "gives"),
    [
        ({"num_labels": 1}, "a number (num_labels 1, problem_type None)"),
        ({"num_labels": 2, "problem_type": "regression"}, "a number (num_labels 2, problem_type regression)"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "several labels at once (num_labels 3"),
    ],
)
def test_heads_that_choose_no_class_are_refused_and_may_be_trained_anew(
    head: dict[str, object], gives: str, tiny_base: Callable[..., Base], rows: Make, tmp_path: Path
) -> None:
    base = tiny_base("bert", task="sequence_classification", **head)
    data = rows("reviews")
    for ask in (api.predict, api.evaluate):
        with pytest.raises(ConfigError, match=re.escape(gives)):
            ask(AdaptedModel(base), data)
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    recipe = {"model": str(tmp_path / "base"), "data": data, "max_steps": 1, "output_dir": str(tmp_path / "out")}
    assert api.predict(train(recipe).model, data)[0].prediction in ("neg", "pos")
    assert api.predict(api.load(tmp_path / "out"), data)[0].prediction in ("neg", "pos")
