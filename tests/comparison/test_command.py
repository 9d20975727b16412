import shlex
from typing import Any

import pytest
import yaml

from petune.cli import main as command_line
from petune.cli.compare import joined
from petune.cli.flags import read
from petune.comparison.command import compare_command, train_command
from petune.comparison.recipe import CompareOptions, CompareRecipe
from petune.training.options import TrainingOptions
from petune.training.recipe import Recipe


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "lora"},
        {"method": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"], "learning_rate": 3e-4, "use_rslora": True},
        {"method": "lora", "rank_pattern": {"q_proj": 2}, "load_best_model_at_end": False, "weight_decay": 0.25},
        {"method": "lora", "template": "Review: {{ text }}\nIt was", "verbalizer": {"a": "good", "b": "not, good"}},
        {"method": "hard_prompts", "templates": ["{{ text }}, so"], "verbalizers": [{"a": "x"}, {"a": "y, z"}]},
        {"method": "prefix_tuning", "num_virtual_tokens": 3, "columns": {"text": "body"}, "max_length": 64},
    ],
)
def test_the_command_says_what_the_keys_say(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"data": "a b.jsonl", "model": "demo", "seed": 3, **keys}
    words = shlex.split(train_command(keys))
    assert words[:2] == ["petune", "train"]
    assert command_line.run([*words[1:], "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(Recipe.parse(keys).to_yaml())


def test_defaults_are_left_out() -> None:
    assert train_command({"data": "rows.jsonl"}) == "petune train --data rows.jsonl"


def test_the_command_of_a_comparison_says_what_the_keys_say() -> None:
    keys = {
        "data": "a b.jsonl",
        "models": ["one", "two"],
        "budget": 5,
        "template": "Review: {{ text }}",
        "columns": {"text": "body"},
        "per_device_train_batch_size": 4,
    }
    words = shlex.split(compare_command(["lora", "ia3"], keys))
    assert words[:5] == ["petune", "compare", "--methods", "lora", "ia3"]
    flags: dict[str, Any] = {}
    joined_words = joined(words[2:])
    for flag, value in zip(joined_words[::2], joined_words[1::2], strict=True):
        flags[flag.removeprefix("--").replace("-", "_")] = value
    fields = {**TrainingOptions.model_fields, **CompareOptions.model_fields}
    read_back = CompareRecipe.parse({name: read(fields[name], value) for name, value in flags.items()})
    assert read_back == CompareRecipe.parse({**keys, "methods": ["lora", "ia3"]})
