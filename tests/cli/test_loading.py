import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from petune.api import evaluate, generate, load
from petune.cli.loading import LoadOptions, checked, load_model, split
from petune.data.options import DataOptions
from petune.errors import ConfigError, PetuneError
from petune.evaluation.options import EvaluationOptions, GenerationOptions


def test_the_first_that_knows_a_flag_has_it() -> None:
    given = {"model": "demo", "data": "a.jsonl", "max_new_tokens": "4", "metrics": "f1,bleu", "revision": None}
    loading, reading, measuring, generating = split(
        given, LoadOptions, DataOptions, EvaluationOptions, GenerationOptions
    )
    assert loading == {"model": "demo"}
    assert reading == {"data": "a.jsonl"}
    assert measuring == {"max_new_tokens": "4", "metrics": ("f1", "bleu")}
    assert generating == {}


def test_a_base_alone(folder: Path) -> None:
    model = load_model({"model": "tiny", "dtype": "bfloat16"})
    assert model.active == ()
    assert model.base.dtype == torch.bfloat16


def test_an_adapter_names_its_base(adapter: str) -> None:
    model = load_model({"adapter": (adapter,), "dtype": "float32"})
    assert model.active == ("default",)
    assert model.base.name.endswith("tiny")


TEXTS = ("--prompt", "row 1\nLabel:", "--max-new-tokens", "6", "--dtype", "float32")


def test_rows_go_through_every_adapter_in_the_order_given(petune: Callable[..., str], adapter: str) -> None:
    train = ("train", "--model", "tiny", "--data", "rows.jsonl", "--max-steps", "2", "--learning-rate", "0.5")
    petune(*train, "--method", "prompt_tuning", "--output-dir", "soft, too", "num_virtual_tokens=3")
    both = ("--adapter", adapter, "--adapter", "soft, too")
    model = load([adapter, "soft, too"], dtype="float32")
    assert model.active == (adapter, "soft, too")
    expected = generate(model, ["row 1\nLabel:"], max_new_tokens=6)[0].text
    assert petune("generate", *both, *TEXTS) == f"row 1\nLabel:{expected}\n"

    petune("eval", *both, "--data", "rows.jsonl", "--dtype", "float32", "--output", "metrics.json")
    measured = json.loads(Path("metrics.json").read_text())["metrics"]
    assert measured == pytest.approx(evaluate(model, "rows.jsonl").metrics)
    answers = [json.loads(line) for line in petune("predict", *both, "--data", "rows.jsonl").splitlines()]
    assert len(answers) == 8


def test_neither_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no model: give --adapter FOLDER, --model NAME"):
        load_model({})


def test_a_missing_adapter_is_an_error() -> None:
    with pytest.raises(PetuneError, match=r"there is no folder nowhere"):
        load_model({"adapter": ("nowhere",)})


def test_options_are_checked_in_one_line() -> None:
    assert checked(GenerationOptions, {"top_p": "0.5", "temperature": "1"}).top_p == 0.5
    with pytest.raises(ConfigError, match=r"^'top_p' is '2': .*less than or equal to 1; 'seed' is '-1'"):
        checked(GenerationOptions, {"top_p": "2", "seed": "-1"})
