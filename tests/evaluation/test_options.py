import subprocess
import sys

import pytest
from pydantic import ValidationError

from petune.evaluation.options import EvaluationOptions, GenerationOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_k": -1},
        {"num_beams": 0},
        {"repetition_penalty": 0.0},
        {"seed": -1},
        {"stop": ("",)},
        {"temprature": 1.0},
        {"top_p": 0.9},
        {"top_k": 5, "num_beams": 2},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GenerationOptions.model_validate(wrong)


def test_every_setting_is_described() -> None:
    for options in (GenerationOptions, EvaluationOptions):
        assert all(field.description for field in options.model_fields.values())


def test_evaluation_generates_greedily() -> None:
    generation = EvaluationOptions(max_new_tokens=7, batch_tokens=99).generation
    assert generation == GenerationOptions(max_new_tokens=7, batch_tokens=99)
    assert generation.temperature == 0


def test_options_and_metrics_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, petune.evaluation.options, petune.evaluation.metrics;"
        "print(sorted({'torch', 'transformers', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
