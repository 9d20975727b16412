"""The public functions, from training to merging, on a tiny model."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import petune
from petune.api import read_rows
from petune.backbone.packed_weight import is_packed
from petune.cli import main as command_line
from petune.errors import BaseMismatchError, ConfigError, DataError, OutputFolderError

ROWS = [{"text": f"row {i}", "label": "positive" if i % 2 else "negative"} for i in range(8)]


@pytest.fixture
def base(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> petune.Base:
    tiny_model("llama").save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return petune.load_base(tmp_path / "tiny", dtype="float32")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def trained(base: petune.Base, rows: Path, tmp_path: Path) -> petune.TrainingResult:
    keys = {"data": str(rows), "output_dir": str(tmp_path / "out"), "max_steps": 3, "learning_rate": 0.01}
    return petune.train({**keys, "template": "Text: {{ text }}\nClass:", "target": " {{ label }}"}, base=base)


def logits(model: petune.AdaptedModel | PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
    return output


def test_a_loaded_adapter_is_the_trained_one(trained: petune.TrainingResult, base: petune.Base) -> None:
    live = logits(trained.model)
    trained.model.detach("default")
    assert not torch.allclose(logits(trained.model), live)
    assert torch.equal(logits(petune.load(trained.output_dir, base=base)), live)
    assert torch.equal(logits(petune.load(trained.output_dir, dtype="float32")), live)


def test_an_adapter_does_not_load_onto_another_base(
    trained: petune.TrainingResult, tiny_base: Callable[..., petune.Base]
) -> None:
    with pytest.raises(BaseMismatchError, match=r"was made for the base .*--allow-base-mismatch"):
        petune.load(trained.output_dir, base=tiny_base("llama", num_hidden_layers=2))


def test_nothing_to_load_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"nothing to load: give an adapter folder, a base model, or both"):
        petune.load()


def test_a_quantised_base_from_training_to_use(base: petune.Base, rows: Path, tmp_path: Path) -> None:
    keys = {"model": base.name, "dtype": "float32", "data": str(rows), "template": "{{ text }}:", "max_steps": 2}
    out = tmp_path / "out"
    trained = petune.train({**keys, "target": " {{ label }}", "quantization": "8bit", "output_dir": str(out)})
    live = logits(trained.model)
    assert "quantization: 8bit" in (out / "recipe.yaml").read_text()
    again = petune.load(out, dtype="float32", quantization="8bit")
    assert any(is_packed(parameter) for parameter in again.model.parameters())
    assert torch.equal(logits(again), live)
    plain = logits(petune.load(out, dtype="float32"))
    assert 0 < (plain - live).norm() / plain.norm() < 0.05
    with pytest.raises(ConfigError, match=r"loaded already: dtype, device, revision and quantization would do nothing"):
        petune.load(out, base=base, quantization="8bit")


def test_evaluation_reads_data_as_training_did(trained: petune.TrainingResult, rows: Path) -> None:
    result = petune.evaluate(trained.model, rows, metrics=["loss", "accuracy"])
    same = petune.evaluate(trained.model, rows, metrics=["loss"], template="Text: {{ text }}\nClass:")
    other = petune.evaluate(trained.model, rows, metrics=["loss"], template="{{ text }} is")
    assert result.labels == ("negative", "positive")
    assert result.metrics["loss"] == pytest.approx(same.metrics["loss"])
    assert result.metrics["loss"] != pytest.approx(other.metrics["loss"])


def test_examples_are_read_as_training_read_them(trained: petune.TrainingResult, rows: Path) -> None:
    examples, encoded = read_rows(trained.model, rows)
    assert [row.origin for row in encoded.rows] == [example.origin for example in examples]
    assert all(example.prompt.startswith("Text: ") and example.prompt.endswith("Class:") for example in examples)
    assert read_rows(trained.model, rows, template="{{ text }}")[0][0].prompt == ROWS[0]["text"]
    with pytest.raises(ConfigError, match="max_new_tokens would do nothing here"):
        read_rows(trained.model, rows, max_new_tokens=3)


def test_prediction_chooses_among_the_labels_of_training(trained: petune.TrainingResult, tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    new.write_text('{"text": "unseen"}\n')
    (answer,) = petune.predict(trained.model, new)
    assert answer.prediction in ("negative", "positive")
    (answer,) = petune.predict(trained.model, new, labels=("yes", "no"))
    assert answer.prediction in ("yes", "no")


def test_generation_of_texts_and_of_conversations(base: petune.Base) -> None:
    model = petune.load(base=base)
    texts = petune.generate(model, ["one", "two"], max_new_tokens=3)
    assert len(texts) == 2
    turn = [{"role": "user", "content": "one"}]
    (answer,) = petune.generate(model, [turn], max_new_tokens=3)
    (written,) = petune.generate(model, ["<user>one</s><assistant>"], max_new_tokens=3)
    assert answer.text == written.text


def test_a_prompt_where_a_list_belongs_is_an_error(base: petune.Base) -> None:
    model = petune.load(base=base)
    for single in ("one", [{"role": "user", "content": "one"}]):
        with pytest.raises(ConfigError, match=r"prompts is a single one; give a list of prompts: \[prompt\]"):
            petune.generate(model, single)  # type: ignore[arg-type]


def test_one_metric_needs_no_list(trained: petune.TrainingResult, rows: Path) -> None:
    assert list(petune.evaluate(trained.model, rows, metrics="accuracy").metrics) == ["accuracy"]


def test_the_revision_asked_for_goes_before_the_recorded_one(
    trained: petune.TrainingResult, base: petune.Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_base(model: str, *, revision: str | None, **options: object) -> petune.Base:
        asked.append((model, revision))
        return base

    trained.model.detach("default")
    monkeypatch.setattr("petune.checkpoint.stack.base_of", lambda folder: ("some/model", "v1"))
    monkeypatch.setattr("petune.api.load_base", load_base)
    petune.load(trained.output_dir)
    petune.load(trained.output_dir, revision="v2")
    assert asked == [("some/model", "v1"), ("some/model", "v2")]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # in peft
def test_a_folder_of_hf_peft_gives_its_logits(base: petune.Base, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base.name), config).eval()
    theirs.save_pretrained(tmp_path / "peft")
    for ours in (petune.load(tmp_path / "peft", dtype="float32"), petune.load(tmp_path / "peft", base=base)):
        torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
        assert not torch.allclose(logits(ours), logits(AutoModelForCausalLM.from_pretrained(base.name)), atol=1e-2)


def test_the_command_line_prints_what_the_functions_return(
    trained: petune.TrainingResult, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    which = ["--adapter", str(trained.output_dir), "--dtype", "float32"]

    def printed(*arguments: str) -> str:
        capsys.readouterr()
        assert command_line.run([*arguments, *which]) == 0
        return capsys.readouterr().out

    for name, value in petune.evaluate(trained.model, rows).metrics.items():
        assert f"{name:<8}  {value:.4f}\n" in printed("eval", "--data", str(rows))
    predictions = [prediction.to_dict() for prediction in petune.predict(trained.model, rows)]
    lines = printed("predict", "--data", str(rows)).splitlines()
    assert [json.loads(line) for line in lines] == predictions
    (answer,) = petune.generate(trained.model, ["row"], max_new_tokens=4)
    assert printed("generate", "--prompt", "row", "--max-new-tokens", "4") == f"row{answer.text}\n"


def test_merging_writes_a_plain_model(trained: petune.TrainingResult, base: petune.Base, tmp_path: Path) -> None:
    folder = petune.merge(trained.output_dir, tmp_path / "merged", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(merged), logits(trained.model), atol=1e-4, rtol=0)
    with pytest.raises(OutputFolderError, match=r"merged exists already; give another --output-dir"):
        petune.merge(trained.output_dir, folder)
    assert petune.merge(trained.output_dir, folder, overwrite=True) == folder


def test_the_report_of_a_data_set(base: petune.Base, rows: Path) -> None:
    report = petune.inspect_data(rows, model=base.name, train_on="completion")
    assert (report.rows_read, report.layout) == (8, "text-label")
    with pytest.raises(DataError, match=r"there is no file"):
        petune.inspect_data(rows.with_name("row.jsonl"), model=base.name)


def test_methods_with_counts(base: petune.Base) -> None:
    assert all(info.trainable is None and info.total is None for info in petune.list_methods())
    total = sum(parameter.numel() for parameter in base.model.parameters())
    for info in petune.list_methods(base.name):
        assert info.total == total
        if info.refused is None:
            assert info.trainable == petune.create_adapter(base, info.name).num_parameters()
        else:
            with pytest.raises(ConfigError, match=re.escape(info.refused)):
                petune.create_adapter(base, info.name)
    assert [info.name for info in petune.list_methods(base.name) if info.refused] == ["bitfit"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, rows: petune.evaluate(model, rows, bach_tokens=1), "unknown key 'bach_tokens'"),
        (lambda model, rows: petune.generate(model, ["a"], temprature=1), "unknown key 'temprature'"),
        (lambda model, rows: petune.generate(model, ["a"], top_p=2), "'top_p' is 2"),
        (lambda model, rows: petune.predict(model, rows, overlng="drop"), "unknown key 'overlng'"),
        (lambda model, rows: petune.predict(model, rows, max_length=9), "max_length would do nothing here"),
        (lambda model, rows: petune.evaluate(model, rows, eval_data="b.jsonl"), "eval_data would do nothing here"),
    ],
    ids=["evaluate", "generate", "range", "predict", "idle in predict", "idle in evaluate"],
)
def test_a_wrong_setting_is_named(
    call: Callable[[petune.AdaptedModel, Path], object], message: str, base: petune.Base, rows: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        call(petune.load(base=base), rows)
