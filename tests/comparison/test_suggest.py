import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import petune
from petune import methods
from petune.cli.compare import joined
from petune.comparison import machine, suggest
from petune.comparison.pace import Pace
from petune.comparison.suggest import Suggestions, standing
from petune.errors import ConfigError, DataError
from petune.methods.method import Finding, Standing

Ask = Callable[..., Suggestions]


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """A file of 24 labelled texts."""
    lines = [{"text": f"row {i}", "label": "positive" if i % 2 else "negative"} for i in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(tmp_path / "rows.jsonl")


@pytest.fixture
def ask(rows: str, tiny_folder: str) -> Ask:
    """Ask about the rows and a tiny llama: ``ask(num_train_epochs=1)``."""

    def ask(**options: Any) -> Suggestions:
        return petune.suggest(options.pop("data", rows), **{"model": tiny_folder, "dtype": "float32", **options})

    return ask


def test_all_methods_with_what_they_cost(ask: Ask) -> None:
    found = ask()
    by_name = {one.method: one for one in found.methods}
    assert set(by_name) == set(methods.names())
    assert (found.task, found.data.rows_kept) == ("causal_lm", 24)
    full = by_name["full"]
    assert full.trainable == found.parameters
    assert full.bytes_stored == 4 * found.parameters
    for one in found.methods:
        assert (one.seconds is None) is (not methods.get(one.method).trains)
        if one.fits != "refused":
            assert found.parameters * 4 < one.memory
            assert found.parameters * 20 < full.memory
    assert by_name["bitfit"].fits == "refused"
    assert "no biases" in str(by_name["bitfit"].why_not)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_full_fine_tuning_stores_a_model_in_the_precision_of_the_run(dtype: str, width: int, ask: Ask) -> None:
    found = ask(dtype=dtype)
    stored = {one.method: one.bytes_stored for one in found.methods}
    assert stored["full"] == width * found.parameters
    assert stored["lora"] == 4 * next(one.trainable for one in found.methods if one.method == "lora")


def test_a_quantised_base_takes_less_and_the_lines_say_so(ask: Ask) -> None:
    plain, rounded = ask(), ask(quantization="8bit")
    by_name = [{one.method: one for one in found.methods} for found in (plain, rounded)]
    assert by_name[1]["lora"].memory < by_name[0]["lora"].memory
    assert "--quantization" not in f"{plain.train} {plain.compare}"
    assert all("--quantization 8bit" in str(line) for line in (rounded.train, rounded.compare))
    with pytest.raises(ConfigError, match=r"keeps the blocks of a \.gguf file"):
        ask(quantization="gguf")


def test_the_order_is_the_documented_rule(ask: Ask) -> None:
    found = ask().methods
    places: list[Standing | None] = ["above", "near", "works", None, "below"]
    keys = [(one.fits == "refused", one.baseline, places.index(one.standing), one.bytes_stored) for one in found]
    assert keys == sorted(keys)
    assert {one.method for one in found if one.baseline} == {"full", "hard_prompts"}
    first = found[0]
    assert (first.fits, first.standing) == ("yes", "above")
    assert [paper.url for _, paper in first.findings] == ["https://arxiv.org/abs/2106.09685"]


def test_the_task_decides_which_findings_hold(
    rows: str, tmp_path: Path, tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_model("bert").save_pretrained(tmp_path / "bert")
    tiny_tokenizer.save_pretrained(tmp_path / "bert")
    found = petune.suggest(rows, model=tmp_path / "bert", task="sequence_classification")
    by_name = {one.method: one for one in found.methods}
    assert (found.task, found.methods[0].method) == ("sequence_classification", "lora")
    assert "GLUE" in by_name["lora"].findings[0][0].says
    assert by_name["p_tuning_v2"].standing == "near"
    assert by_name["prefix_tuning"].standing is None


def test_more_rows_and_epochs_take_longer(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.comparison.survey.pace_of", lambda *given: Pace(3.0, 1.0, 100.0, 7.0, 11.0, 10**6))

    def seconds(**options: Any) -> float:
        return next(one.seconds or 0 for one in ask(**options).methods if one.method == "lora")

    assert seconds(num_train_epochs=6) == pytest.approx(2 * seconds())
    assert seconds(per_device_train_batch_size=8) == pytest.approx(seconds(per_device_train_batch_size=12), rel=0.1)


@pytest.mark.parametrize(("share", "fits"), [(1.1, "yes"), (0.9, "tight"), (0.0, "no")])
def test_memory_decides_what_fits(share: float, fits: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = next(one.memory for one in ask().methods if one.method == "lora")
    monkeypatch.setattr(machine, "memory", lambda device: int(share * needed))
    found = ask()
    lora = next(one for one in found.methods if one.method == "lora")
    assert lora.fits == fits
    assert ("GiB" in str(lora.why_not)) is (fits != "yes")
    assert (found.train is None, found.compare is None) == (fits == "no", fits == "no")


def test_the_lines_to_go_on_with_run(ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from petune.cli import main as command_line

    found = ask(num_train_epochs=1, template="{{ text }} is", max_length=64)
    assert found.train is not None
    assert found.compare is not None
    assert command_line.run([*shlex.split(found.train)[1:], "--dry-run"]) == 0
    assert "num_train_epochs: 1.0" in capsys.readouterr().out
    words = joined(shlex.split(found.compare)[1:])
    assert words[words.index("--methods") + 1].split(",") == [one.method for one in found.methods[:3]]
    assert command_line.run([*words, "--output-dir", str(tmp_path / "out"), "--plan"]) == 0
    assert "Nothing was run" in capsys.readouterr().out


def test_trusted_code_is_trusted_in_the_lines_too(ask: Ask) -> None:
    found = ask(trust_remote_code=True)
    assert str(found.train).endswith(" --trust-remote-code")
    assert str(found.compare).endswith(" --trust-remote-code")


def test_json_holds_everything(ask: Ask) -> None:
    found = json.loads(json.dumps(ask().to_dict()))
    first = found["methods"][0]
    assert set(first) == set(suggest.Suggestion.__dataclass_fields__)
    assert first["findings"][0]["paper"]["year"] == 2021
    assert found["data"]["rows_kept"] == 24
    assert set(found) == set(Suggestions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("standings", "expected"),
    [([], None), (["works", "near"], "near"), (["near", "above"], "above"), (["above", "below"], "below")],
)
def test_the_best_place_counts_unless_one_is_below(standings: list[Standing], expected: Standing | None) -> None:
    assert standing([Finding("Found.", place) for place in standings]) == expected


def test_bad_input_is_told(ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'num_epochs' is no key of petune suggest\. Did you mean"):
        ask(num_epochs=3)
    with pytest.raises(ConfigError, match="num_train_epochs"):
        ask(num_train_epochs=-1)
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        ask(data=str(tmp_path / "missing.jsonl"))
