import inspect
import subprocess
import sys

import pytest
from pydantic import ValidationError

from petune.data import options
from petune.data.options import DataOptions


def test_defaults_need_nothing_but_data():
    given = DataOptions(data="rows.jsonl")
    assert (given.chat, given.train_on, given.overlong, given.layout) == (
        "auto",
        "completion",
        "error",
        "auto",
    )


def test_options_are_frozen_and_closed():
    with pytest.raises(ValidationError, match="frozen"):
        DataOptions(data="a").data = "b"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DataOptions(dat="a")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_split": 0}, "validation_split is 0; give a share between 0 and 1"),
        ({"validation_split": -1}, "validation_split is -1;"),
        ({"validation_split": 1.5}, r"validation_split is 1\.5;"),
        ({"validation_split": 0.1, "eval_data": "b"}, "both given; keep one of them"),
        ({"max_length": 1}, "max_length is 1 tokens; the least that can be learned from is 2"),
        ({"overlong": "cut"}, "'error', 'drop' or 'truncate'"),
    ],
)
def test_values_that_make_no_sense(fields, message):
    with pytest.raises(ValidationError, match=message):
        DataOptions(data="a", **fields)


def test_every_field_says_what_it_is():
    fields = DataOptions.model_fields
    assert len(fields) == 12
    assert all(field.description for field in fields.values())


def test_options_and_checks_need_neither_torch_nor_transformers():
    imports = "import sys, petune.data.options, petune.data.loading, petune.data.reading"
    code = f"{imports}; print({{'torch', 'transformers', 'datasets', 'pyarrow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert "import torch" not in inspect.getsource(options)
