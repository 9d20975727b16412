"""Targets written for prompts by encoder-decoders."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from petune import api
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.data.batching import collate
from petune.data.encoding import IGNORED
from petune.data.examples import Example, ExampleSet
from petune.errors import DataError
from petune.evaluation.options import EvaluationOptions
from petune.evaluation.seq2seq import log_likelihoods
from petune.tasks.registry import TASKS
from petune.training.run import train

Make = Callable[..., str]
TASK = TASKS["seq2seq_lm"]


def examples(*pairs: tuple[str, str | None]) -> ExampleSet:
    rows = [Example(f"x:{i}", (), p, t, None, {}, add_special_tokens=True) for i, (p, t) in enumerate(pairs)]
    return ExampleSet(rows, source="x.jsonl", layout="prompt-completion")


@pytest.mark.parametrize("architecture", ["t5", "bart"])
@pytest.mark.parametrize("method", ["lora", "prefix_tuning", "prompt_tuning", "full"])
def test_trained_saved_loaded_and_asked(
    method: str, architecture: str, rows: Make, base_folder: Make, tmp_path: Path
) -> None:
    data = rows("reviews")
    recipe = {"model": base_folder(architecture), "data": data, "dtype": "float32", "method": method, "max_steps": 4}
    result = train({**recipe, "eval_data": data, "learning_rate": 1e-2, "output_dir": str(tmp_path / "out")})
    live = api.generate(result.model, ["bad film 0\nLabel:"], max_new_tokens=5)
    model = api.load(tmp_path / "out", dtype="float32")
    assert model.base.task == "seq2seq_lm"
    assert api.generate(model, ["bad film 0\nLabel:"], max_new_tokens=5) == live
    measured = api.evaluate(model, data, metrics=("loss", "accuracy", "exact_match"), max_new_tokens=5)
    assert measured.metrics["loss"] == pytest.approx(result.eval_metrics["loss"], abs=1e-4)
    answers = api.predict(model, data)
    assert {a.prediction for a in answers} <= {"neg", "pos"}
    assert measured.metrics["accuracy"] == pytest.approx(sum(a.prediction == a.reference for a in answers) / 24)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_the_loss_is_the_models_own(architecture: str, tiny_base: Callable[..., Base]) -> None:
    base = tiny_base(architecture)
    data = examples(("hello there", "hi"), ("a", "a much longer target"))
    rows = TASK.encode(data, base.tokenizer, labels=(), max_length=99).rows
    objective = TASK.objective(base.model, lambda module: False)
    summed = 0.0
    for row in rows:
        labels = torch.tensor([row.labels])
        inputs = {"input_ids": torch.tensor([row.input_ids])}
        mean = base.model(**inputs, labels=labels).loss
        torch.testing.assert_close(objective(inputs, labels)[0], mean * len(row.labels), rtol=1e-5, atol=1e-5)
        summed += float(mean) * len(row.labels)
    batch = log_likelihoods(AdaptedModel(base), rows, batch_tokens=8192)
    assert -sum(batch) == pytest.approx(summed, rel=1e-4)
    loss = TASK.evaluate(AdaptedModel(base), data, EvaluationOptions()).metrics["loss"]
    assert loss == pytest.approx(summed / sum(len(row.labels) for row in rows), rel=1e-4)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_a_long_target_is_scored_in_parts(
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, "prefix_tuning", num_virtual_tokens=3))])
    data = examples(("hello there", "a target of very many tokens, of which few go through the head"), ("a", "hi"))
    rows = TASK.encode(data, base.tokenizer, labels=(), max_length=99).rows
    whole = log_likelihoods(model, rows, batch_tokens=8192)
    most = 5 * base.model.config.vocab_size
    monkeypatch.setattr("petune.evaluation.head.MAX_LOGITS", most)
    monkeypatch.setattr("petune.evaluation.seq2seq.MAX_LOGITS", most)
    seen: list[int] = []
    base.model.get_output_embeddings().register_forward_hook(lambda m, i, o: seen.append(o.numel()))
    blocks: list[int] = []
    attentions = [m for n, m in base.model.named_modules() if n.endswith(("EncDecAttention", "encoder_attn"))]
    attentions[-1].register_forward_hook(lambda *_: blocks.append(1))
    assert log_likelihoods(model, rows, batch_tokens=8192) == pytest.approx(whole, rel=1e-5)
    assert max(seen) <= most
    assert len(seen) > 10
    assert len(blocks) == 2  # of the long target, and of the short one


def test_a_row_and_its_right_label_are_computed_once(tiny_base: Callable[..., Base]) -> None:
    model = AdaptedModel(tiny_base("t5"))
    data = [replace(e, choices_key=e.target) for e in examples(("good film", "pos"), ("bad film", "neg"), ("a", "pos"))]
    rows = ExampleSet(data, source="rows", layout="classification")
    ran: list[int] = []
    forward = model.model.register_forward_pre_hook(lambda m, a, k: ran.append(len(k["input_ids"])), with_kwargs=True)
    both = TASK.evaluate(model, rows, EvaluationOptions()).metrics
    assert sum(ran) == 3 * 2
    forward.remove()
    for name in ("loss", "accuracy"):
        alone = TASK.evaluate(model, rows, EvaluationOptions(metrics=(name,))).metrics
        assert alone[name] == pytest.approx(both[name], abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["t5", "bart"])
@pytest.mark.parametrize("method", ["lora", "prefix_tuning"])
def test_generation_with_and_without_a_cache_is_the_same(
    method: str,
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, method))])
    ids = token_ids(3, 7)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    for beams in (1, 3):
        with model.route(["default", None, "default"]):
            cached, plain = (
                model.model.generate(input_ids=ids, num_beams=beams, use_cache=cache, **settings)
                for cache in (True, False)
            )
        assert torch.equal(cached, plain)
        model.activate()
        bare = model.model.generate(input_ids=ids, num_beams=beams, **settings)
        model.activate("default")
        assert torch.equal(cached[1], bare[1])


@torch.no_grad()
def test_every_attention_of_an_encoder_decoder_has_a_prefix_of_its_own_sizes(tiny_base: Callable[..., Base]) -> None:
    for architecture, heads in (("t5", (4, 4)), ("bart", (4, 2))):
        base = tiny_base(architecture)
        tensors = create_adapter(base, "prefix_tuning", num_virtual_tokens=3).tensors()
        kinds = [attention.kind for attention in base.structure.attentions]
        assert kinds == ["encoder"] * 2 + ["decoder", "cross"] * 2
        for attention in base.structure.attentions:
            width = 12 if architecture == "t5" else 32 // heads[attention.kind != "encoder"]
            expected = (heads[attention.kind != "encoder"], 3, width)
            assert tuple(tensors[f"{attention.path}.keys"].shape) == expected


def test_rows_that_cannot_be_used(tiny_base: Callable[..., Base]) -> None:
    tokenizer = tiny_base("t5").tokenizer
    with pytest.raises(DataError, match="none of 1 rows has a target"):
        TASK.encode(examples(("a", " ")), tokenizer, labels=(), max_length=9)
    with pytest.raises(DataError, match="1 of 1 rows are longer than 9 tokens"):
        TASK.encode(examples(("a" * 20, "b")), tokenizer, labels=(), max_length=9)
    with pytest.raises(DataError, match="1 targets are longer than 9 tokens, the first at x:0"):
        TASK.encode(examples(("a", "b" * 20)), tokenizer, labels=(), max_length=9)
    cut = TASK.encode(examples(("a" * 20, "b" * 20)), tokenizer, labels=(), max_length=9, overlong="truncate").rows
    assert [(len(row.input_ids), len(row.labels), row.num_tokens) for row in cut] == [(9, 9, 18)]
    assert cut[0].input_ids[-1] == tokenizer.eos_token_id
    # A target that is cut is a row that is cut, though its prompt is whole, and however long that is.
    for target in ("b" * 20, "b" * 8):
        found = TASK.encode(examples(("a" * 8, target)), tokenizer, labels=(), max_length=9, overlong="truncate")
        assert (found.cut, found.report.rows_cut) == (({"x:0"}, 1) if len(target) > 9 else (set(), 0))
    kept = TASK.encode(examples(("a", "b"), ("a", "")), tokenizer, labels=(), max_length=9)
    assert (len(kept.rows), sum(kept.report.dropped.values())) == (1, 1)
    assert IGNORED not in kept.rows[0].labels


def test_words_stand_for_labels(tiny_base: Callable[..., Base]) -> None:
    base, words = tiny_base("t5"), {"yes": "great", "no": "bad"}
    row = Example("x:0", (), "film", "yes", "yes", {}, add_special_tokens=True, words=words)
    data = ExampleSet([row], source="x.jsonl", layout="text-label")
    (encoded,) = TASK.encode(data, base.tokenizer, labels=(), max_length=99).rows
    assert base.tokenizer.decode(encoded.labels, skip_special_tokens=True) == "great"
    plain = examples(("film", "great"), ("film", "bad"))
    model = AdaptedModel(base)
    options = EvaluationOptions(metrics=("accuracy",), labels=("yes", "no"))
    (answer,) = TASK.evaluate(model, data, options).predictions
    likely = log_likelihoods(model, TASK.encode(plain, base.tokenizer, labels=(), max_length=99).rows, batch_tokens=99)
    assert answer.prediction == ("yes" if likely[0] > likely[1] else "no")
    assert answer.probabilities is not None
    assert answer.probabilities["yes"] == pytest.approx(1 / (1 + math.exp(likely[1] - likely[0])), abs=1e-5)


@pytest.mark.parametrize("method", [None, "prompt_tuning"])
@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_what_is_written_does_not_depend_on_the_batch(
    architecture: str, method: str | None, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, method))] if method else [])
    longer = "a prompt that is much longer than the others"
    for prompt in ("hello", "and another one"):
        options = {"max_new_tokens": 12, "temperature": 2.0}  # drawn by the number of the row, from all there is
        (alone,) = api.generate(model, [prompt], **options)
        assert api.generate(model, [prompt, longer], **options)[0] == alone
        assert len(set(alone.text)) > 3


@pytest.mark.parametrize("architecture", ["m2m_100", "blenderbot"])
def test_models_that_make_no_decoder_inputs_of_labels(architecture: str, tiny_base: Callable[..., Base]) -> None:
    sides = {f"{side}_{key}": n for side in ("encoder", "decoder") for key, n in (("layers", 1), ("ffn_dim", 48))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 1}
    config = AutoConfig.for_model(
        architecture, vocab_size=288, d_model=32, dropout=0.0, max_position_embeddings=128, **sides, **heads, **tokens
    )
    torch.manual_seed(0)
    own = AutoModelForSeq2SeqLM.from_config(config).eval()
    base = Base.from_model(own, tiny_base("bart").tokenizer, name=architecture)
    rows = TASK.encode(
        examples(("hello", "yes"), ("a longer one", "no, not at all")), base.tokenizer, labels=(), max_length=99
    )
    batch = collate(rows.rows, pad_token_id=0)
    count = int((batch["labels"] != IGNORED).sum())
    with torch.no_grad():
        wanted = own(**batch).loss.item()
    labels = batch.pop("labels")
    losses = TASK.objective(own, lambda module: False)(batch, labels)
    assert losses.sum().item() / count == pytest.approx(wanted, abs=1e-4)
    found = log_likelihoods(AdaptedModel(base), rows.rows, batch_tokens=1000)
    assert -sum(found) / count == pytest.approx(wanted, abs=1e-4)
