"""Soft prompts that stand inside rows: after BOS, between prompt and answer, in a template, in several versions."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from petune import api
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.data.batching import collate
from petune.data.encoding import encode
from petune.data.examples import Example, ExampleSet, Segment
from petune.errors import ConfigError, DataError
from petune.evaluation.evaluate import evaluate
from petune.evaluation.options import EvaluationOptions, GenerationOptions
from petune.evaluation.scoring import score_choices
from petune.evaluation.stream import stream
from petune.sites.head import LabelLoss
from petune.training.recomputation import gradient_checkpointing
from petune.training.run import train

LABELS = ("good", "bad")
TEMPLATE = "{p*2} {text} {p*3} so: {mask}"
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("prompt_tuning", {"num_virtual_tokens": 5, "placement": "after_bos"}),
    ("prompt_tuning", {"num_virtual_tokens": 5, "placement": "append"}),
    ("p_tuning", {"prompt_template": TEMPLATE}),
]
IDS = ["after_bos", "append", "template"]


def reviews() -> ExampleSet:
    texts = ("a joy", "dull and long", "a film to see twice", "no")
    rows = [
        Example(f"r:{i}", (Segment(t, False), Segment(f" {y}", True)), t, y, y, {}, True)
        for i, (t, y) in enumerate(zip(texts, LABELS * 2, strict=True))
    ]
    return ExampleSet(rows, source="r", layout="text-label")


def embedded(base: Base, prompt: Adapter, kind: str, text: str, answer: str) -> tuple[torch.Tensor, int]:
    """Write out the embeddings [T, d] that a row should have, and where its answer begins."""
    virtual = prompt.source.embeddings().detach()  # type: ignore[union-attr, operator]

    def words(piece: str) -> torch.Tensor:
        ids = base.tokenizer(piece, add_special_tokens=False)["input_ids"]
        return base.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.int64))

    pieces = {
        "after_bos": [virtual, words(text)],
        "append": [words(text), virtual],
        "template": [virtual[:2], words(text), virtual[2:], words(" so:")],
    }[kind]
    start = sum(map(len, pieces))
    return torch.cat([*pieces, words(answer)]), start


@pytest.fixture
def make(tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> Callable[..., AdaptedModel]:
    """Return a base with a trained-looking adapter."""

    def build(method: str, **options: Any) -> AdaptedModel:
        base = tiny_base(options.pop("architecture", "llama"))
        return AdaptedModel(base, [randomise(create_adapter(base, method, **options))])

    return build


@pytest.mark.parametrize(("kind", "number"), [(kind, number) for number, kind in enumerate(IDS)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "falcon"])
@torch.no_grad()
def test_losses_scores_and_text_equal_embeddings_written_out(
    kind: str, number: int, architecture: str, make: Callable[..., AdaptedModel], tiny_base: Callable[..., Base]
) -> None:
    method, options = KINDS[number]
    model, base = make(method, architecture=architecture, **options), tiny_base(architecture)
    prompt, rows = model.adapter("default"), reviews()
    choices = score_choices(model, rows, LABELS)
    ends = [base.tokenizer.eos_token_id]
    for row, choice in zip(rows, choices, strict=True):
        for label, score in zip(LABELS, choice.log_probabilities, strict=True):
            inputs, start = embedded(base, prompt, kind, row.prompt, f" {label}")
            logs = base.model(inputs_embeds=inputs[None]).logits[0].log_softmax(-1)
            ids = base.tokenizer(f" {label}", add_special_tokens=False)["input_ids"]
            expected = sum(logs[start - 1 + i, token] for i, token in enumerate([*ids, *ends]))
            assert score == pytest.approx(float(expected), abs=1e-3)
    written = api.generate(model, [row.prompt for row in rows], max_new_tokens=4)
    for row, answer in zip(rows, written, strict=True):
        inputs, _ = embedded(base, prompt, kind, row.prompt, "")
        settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        expected_ids = base.model.generate(inputs_embeds=inputs[None], **settings)[0]
        assert answer.text == base.tokenizer.decode(expected_ids, skip_special_tokens=True)
    assert "".join(stream(model, rows[0].prompt, GenerationOptions(max_new_tokens=4))) == written[0].text


@pytest.mark.parametrize(("method", "options"), KINDS, ids=IDS)
def test_trained_saved_and_loaded(
    method: str,
    options: dict[str, Any],
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    write_rows: Callable[..., Path],
) -> None:
    data = write_rows(tmp_path / "rows.jsonl", [{"text": row.prompt, "label": row.target} for row in reviews()])
    keys = {"data": str(data), "eval_data": str(data), "output_dir": str(tmp_path / "run"), "logging_steps": 1}
    base = tiny_base()
    result = train(
        {**keys, "method": method, **options, "max_steps": 30, "learning_rate": 0.03, "metrics": ["accuracy"]},
        base=base,
    )
    losses = [entry["loss"] for entry in result.history if "loss" in entry]
    assert losses[-1] < 0.85 * losses[0]
    assert not (tmp_path / "run" / "adapter_config.json").exists()  # PEFT could not place them
    measured = api.evaluate(result.model, str(data)).metrics
    result.model.detach("default")
    again = AdaptedModel(base, [load_adapter(tmp_path / "run", base)])
    assert api.evaluate(again, str(data)).metrics == measured
    assert measured["loss"] == pytest.approx(result.eval_metrics["loss"], rel=1e-4)
    assert [p.prediction for p in api.predict(again, str(data))]
    with pytest.raises(DataError, match="holds 0 virtual tokens, expected 5"):
        again(input_ids=torch.tensor([[5, 6, 7]]))


def test_penalised_repetition_does_not_see_virtual_tokens(make: Callable[..., AdaptedModel]) -> None:
    model = make(KINDS[1][0], **KINDS[1][1])
    options = {"max_new_tokens": 8, "repetition_penalty": 1.5}
    both = api.generate(model, ["a joy", "dull"], **options)
    assert [api.generate(model, [prompt], **options)[0] for prompt in ("a joy", "dull")] == both


@torch.no_grad()
def test_plain_calls_through_insert_virtual_tokens(make: Callable[..., AdaptedModel]) -> None:
    model = make("prompt_tuning", num_virtual_tokens=2, placement="append")
    other = create_adapter(model.base, "prompt_tuning", name="other", num_virtual_tokens=3, placement="after_bos")
    model.attach(other, active=False)
    texts = ["a joy", "dull and long"]
    batch = model.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = model.insert_virtual_tokens(inputs)
    answers = model.model.generate(**plain, **settings)[:, plain["input_ids"].shape[1] :]
    expected = [answer.text for answer in api.generate(model, texts, max_new_tokens=4)]
    assert model.tokenizer.batch_decode(answers, skip_special_tokens=True) == expected
    mixed = model.insert_virtual_tokens(inputs, rows=["other", None])
    with model.route(["other", None]):
        logits = model(**mixed).logits[:, -1]
    model.activate("other")
    alone = model(**model.insert_virtual_tokens({k: v[:1, 8:] for k, v in inputs.items()})).logits[0, -1]
    torch.testing.assert_close(logits[0], alone, rtol=1e-4, atol=1e-4)
    model.activate("other", "default")
    both = model.insert_virtual_tokens(inputs)
    ids = both["input_ids"][1].tolist()
    assert (ids[:3], ids[-2:]) == ([288, 289, 290], [291, 292])  # the first of the stack has the first ids
    assert torch.isfinite(model(**both).logits).all()


@torch.no_grad()
def test_rows_without_padding_generate_beside_one_another_as_alone(make: Callable[..., AdaptedModel]) -> None:
    model = make("prompt_tuning", num_virtual_tokens=4, placement="append")
    ids = torch.arange(40, 46).repeat(2, 1)
    settings = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    batch = model.insert_virtual_tokens({"input_ids": ids}, ["default", None])
    with model.route(["default", None]):
        mixed = model.model.generate(**batch, **settings)[:, -4:]
    for i, rows in enumerate((["default"], [None])):
        with model.route(rows):
            alone = model.model.generate(**model.insert_virtual_tokens({"input_ids": ids[:1]}, rows), **settings)
        assert torch.equal(mixed[i], alone[0, -4:])


class TestEnsemble:
    """Several prompts of one adapter: three versions of each row in one batch."""

    OPTIONS: ClassVar[dict[str, Any]] = {"num_virtual_tokens": 4, "num_prompts": 3}

    def apart(self, model: AdaptedModel, base: Base) -> AdaptedModel:
        """Return a model with the prompts as adapters m0, m1, m2 of the ordinary kind."""
        whole = model.adapter("default").tensors()["source.prompt_embeddings"]
        adapters = []
        for i in range(3):
            adapter = create_adapter(base, "prompt_tuning", name=f"m{i}", num_virtual_tokens=4)
            adapter.load_tensors({"source.prompt_embeddings": whole[4 * i : 4 * i + 4]})
            adapters.append(adapter)
        return AdaptedModel(base, adapters)

    @torch.no_grad()
    def test_labels(self, make: Callable[..., AdaptedModel], tiny_base: Callable[..., Base]) -> None:
        model = make("prompt_tuning", **self.OPTIONS)
        joint = self.apart(model, tiny_base())
        shares, votes = [], []
        for i in range(3):
            joint.activate(f"m{i}")
            choices = score_choices(joint, reviews(), LABELS)
            shares.append([c.probabilities for c in choices])
            votes.append([c.label for c in choices])
        mean = torch.tensor(shares).mean(0)
        passes: list[int] = []
        handle = model.model.register_forward_pre_hook(lambda *_: passes.append(1))
        score_choices(model, reviews()[:1], LABELS)
        handle.remove()
        assert len(passes) == 1
        found = score_choices(model, reviews(), LABELS)
        torch.testing.assert_close(torch.tensor([c.probabilities for c in found]), mean, rtol=1e-3, atol=1e-4)
        assert [c.label for c in found] == [LABELS[i] for i in mean.argmax(1).tolist()]

        voting = make("prompt_tuning", **self.OPTIONS, ensemble="vote")
        majority = [max(LABELS, key=[v[row] for v in votes].count) for row in range(4)]
        assert [c.label for c in score_choices(voting, reviews(), LABELS)] == majority

    @torch.no_grad()
    def test_text(self, make: Callable[..., AdaptedModel], tiny_base: Callable[..., Base]) -> None:
        model = make("prompt_tuning", **self.OPTIONS)
        joint = self.apart(model, tiny_base())
        prompts = [row.prompt for row in reviews()]
        answers = []
        for i in range(3):
            joint.activate(f"m{i}")
            answers.append([a.text for a in api.generate(joint, prompts, max_new_tokens=1)])
        expected = [max(texts, key=texts.count) for texts in zip(*answers, strict=True)]
        assert [a.text for a in api.generate(model, prompts, max_new_tokens=1)] == expected
        with pytest.raises(ConfigError, match="prompts vote on an answer, which is known at the end only"):
            next(stream(model, "a joy"))
        with pytest.raises(ConfigError, match="in several versions"):
            model.insert_virtual_tokens({"input_ids": torch.ones(1, 3, dtype=torch.int64)})

    def test_a_step_gives_each_prompt_the_gradient_of_its_own_run(
        self, make: Callable[..., AdaptedModel], tiny_base: Callable[..., Base]
    ) -> None:
        model = make("prompt_tuning", **self.OPTIONS)
        joint = self.apart(model, tiny_base())

        def gradient(of: AdaptedModel, name: str) -> torch.Tensor:
            of.adapter(name).set_trainable(True)
            rows = encode(reviews(), of.tokenizer, max_length=99, insertions=of.insertions).rows
            batch = collate(rows, pad_token_id=0)
            labels = batch.pop("labels")
            LabelLoss(of.model, of.plugged_into)(batch, labels).sum().backward()
            (parameter,) = of.adapter(name).parameters()
            assert parameter.grad is not None
            return parameter.grad

        whole = gradient(model, "default")
        for i in range(3):
            joint.activate(f"m{i}")
            own = gradient(joint, f"m{i}")
            assert (whole[4 * i : 4 * i + 4] - own).norm() / own.norm() < 1e-4

    def test_trained_in_one_run(
        self, tmp_path: Path, tiny_base: Callable[..., Base], write_rows: Callable[..., Path]
    ) -> None:
        data = write_rows(tmp_path / "rows.jsonl", [{"text": r.prompt, "label": r.target} for r in reviews()])
        keys = {"data": str(data), "output_dir": str(tmp_path / "run"), "method": "prompt_tuning", **self.OPTIONS}
        base = tiny_base()
        result = train(
            {**keys, "num_train_epochs": 15, "per_device_train_batch_size": 2, "learning_rate": 0.03}, base=base
        )
        assert result.steps == 30  # of two rows, each in three versions
        assert result.train_report.rows_kept == 4
        adapter = result.model.adapter("default")
        assert adapter.tensors()["source.prompt_embeddings"].shape == (12, 32)
        measured = api.evaluate(result.model, str(data)).metrics
        one_line = tmp_path / "rows.json"  # where every row has the same origin
        one_line.write_text(json.dumps([json.loads(line) for line in data.read_text().splitlines()]))
        for metrics in (["loss"], ["accuracy"], ["loss", "accuracy"]):
            for rows in (data, one_line):
                assert api.evaluate(result.model, str(rows), metrics=metrics).num_rows == 4
        result.model.detach("default")
        again = AdaptedModel(base, [load_adapter(tmp_path / "run", base)])
        assert api.evaluate(again, str(data)).metrics == measured
        assert json.loads((tmp_path / "run" / "petune.json").read_text())["config"]["num_prompts"] == 3

    def test_nothing_else_may_write_into_its_rows(self, make: Callable[..., AdaptedModel]) -> None:
        model = make("prompt_tuning", **self.OPTIONS)
        model.attach(create_adapter(model.base, "prompt_tuning", name="other", placement="append"))
        model.activate("default", "other")
        with pytest.raises(ConfigError, match="one writes rows in several versions"):
            evaluate(model, reviews(), EvaluationOptions())


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("prompt_tuning", {"placement": "behind"}, "'placement' is 'behind'"),
        (
            "prompt_tuning",
            {"num_prompts": 2, "prompt_tuning_init": "text", "prompt_tuning_init_text": "abc"},
            "starts all prompts alike",
        ),
        (
            "prompt_tuning",
            {
                "num_prompts": 2,
                "num_virtual_tokens": 2,
                "prompt_tuning_init": "class_labels",
                "prompt_tuning_init_labels": ("a", "b"),
            },
            "starts all prompts alike",
        ),
        ("p_tuning", {"prompt_template": "{text} so:"}, "has no virtual token"),
        ("p_tuning", {"prompt_template": "{p*2} so:"}, r"needs the slot \{text\}"),
        ("p_tuning", {"prompt_template": "{p*2} {txt}"}, "unknown slot"),
        ("p_tuning", {"prompt_template": "{p*2} {text}", "num_virtual_tokens": 3}, "prompt_template has 2"),
    ],
)
def test_bad_settings(method: str, options: dict[str, Any], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), method, **options)


def test_files_of_a_prompt_in_front_are_still_peft_s(make: Callable[..., AdaptedModel], tmp_path: Path) -> None:
    save_adapter(make("prompt_tuning", num_virtual_tokens=4), tmp_path / "one")
    save_adapter(make("prompt_tuning", num_virtual_tokens=4, num_prompts=2), tmp_path / "two")
    assert (tmp_path / "one" / "adapter_config.json").exists()
    assert not (tmp_path / "two" / "adapter_config.json").exists()


@pytest.mark.parametrize(("method", "options"), KINDS, ids=IDS)
def test_recomputed_activations_give_the_same_gradients(
    method: str, options: dict[str, Any], make: Callable[..., AdaptedModel]
) -> None:
    model = make(method, **options)
    adapter = model.adapter("default")
    adapter.set_trainable(True)
    rows = encode(reviews(), model.tokenizer, max_length=99, insertions=model.insertions).rows
    found = []
    for recompute in (nullcontext(), gradient_checkpointing(model.model)):
        model.train()
        with recompute:
            batch = collate(rows, pad_token_id=0)
            LabelLoss(model.model, model.plugged_into)(batch, batch.pop("labels")).sum().backward()
        found.append([parameter.grad for parameter in adapter.parameters()])
        model.zero_grad(set_to_none=True)
    for plain, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("last", ["prompt", "tables"])
@torch.no_grad()
def test_virtual_tokens_are_not_changed_by_what_else_is_at_the_embeddings(
    last: str, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base, ids = tiny_base(), torch.tensor([[2, 40, 41, 0, 42]])
    prompt = create_adapter(base, "prompt_tuning", name="prompt", placement="after_bos", num_virtual_tokens=3)
    rows = {"embed_tokens": (0, 41)}  # of the token, too, that is looked up in place of virtual ones
    tables = create_adapter(base, "lora", name="tables", target_modules="embed_tokens")
    own_rows = create_adapter(base, "lora", name="rows", target_modules="mlp", trainable_token_indices=rows)
    copied = create_adapter(base, "ia3", name="copied", modules_to_save=("embed_tokens",))
    adapters = [randomise(adapter) for adapter in (prompt, tables, own_rows, copied)]
    model = AdaptedModel(base, adapters if last == "tables" else adapters[::-1])
    for other in ("tables", "rows", "copied"):
        with model.route([other]):
            looked_up = base.model.get_input_embeddings()(ids)[0]
            vectors = prompt.tensors()["source.prompt_embeddings"]
            expected = model(inputs_embeds=torch.cat([looked_up[:1], vectors, looked_up[1:]])[None]).logits
        together = [["prompt", other]]
        with model.route(together):
            actual = model(**model.insert_virtual_tokens({"input_ids": ids}, together)).logits
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
