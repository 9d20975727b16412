from pathlib import Path

import pytest
import torch

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
    model = load_model({"adapter": adapter, "dtype": "float32"})
    assert model.active == ("default",)
    assert model.base.name.endswith("tiny")


def test_neither_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no model: give --adapter FOLDER, --model NAME"):
        load_model({})


def test_a_missing_adapter_is_an_error() -> None:
    with pytest.raises(PetuneError, match=r"there is no folder nowhere"):
        load_model({"adapter": "nowhere"})


def test_options_are_checked_in_one_line() -> None:
    assert checked(GenerationOptions, {"top_p": "0.5"}).top_p == 0.5
    with pytest.raises(ConfigError, match=r"^'top_p' is '2': .*less than or equal to 1; 'seed' is '-1'"):
        checked(GenerationOptions, {"top_p": "2", "seed": "-1"})
