"""One recipe of several adapters."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from petune.errors import ConfigError
from petune.training.recipe import Recipe
from petune.training.shared_recipe import SharedRecipe

KEYS: dict[str, Any] = {
    "data": "rows.jsonl",
    "output_dir": "out",
    "learning_rate": 1e-3,
    "adapters": {"a": None, "b": {"r": 4, "learning_rate": 1e-2}, "c": {"method": "full", "output_dir": "elsewhere"}},
}


def test_own_keys_stand_over_the_common_ones() -> None:
    shared = SharedRecipe.parse(KEYS)
    assert shared.output_dir == Path("out")
    assert shared.recipes == {
        "a": Recipe.parse({"data": "rows.jsonl", "learning_rate": 1e-3, "output_dir": "out/a"}),
        "b": Recipe.parse({"data": "rows.jsonl", "learning_rate": 1e-2, "output_dir": "out/b", "r": 4}),
        "c": Recipe.parse({"data": "rows.jsonl", "learning_rate": 1e-3, "output_dir": "elsewhere", "method": "full"}),
    }


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    shared = SharedRecipe.parse(KEYS)
    path = tmp_path / "recipe.yaml"
    path.write_text(shared.to_yaml())
    assert SharedRecipe.read(path) == shared
    same = SharedRecipe.parse({**KEYS, "adapters": {"x": {}, "y": {"seed": 1}}}).to_yaml()
    assert same.count("lora_alpha") == 1, "what all have in common stands once"


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        (None, r"adapters is None; write a mapping of names to keys: adapters: \{small: \{r: 4\}, large: \{r: 32\}\}"),
        ({}, r"adapters is \{\}; write a mapping"),
        ([{"r": 4}], r"adapters is \[\{'r': 4\}\]; write a mapping"),
        ({"a": 4}, r"adapters: a is 4; write a mapping"),
        ({"a/b": {}}, r"adapters: 'a/b' is to be the name of a folder; leave slashes out"),
        ({"..": {}}, r"adapters: '\.\.' is to be the name of a folder"),
        ({"a": {}, "b": {"rr": 4}}, r"adapters: b: unknown key 'rr' for method lora\. Did you mean 'r'\?"),
        ({"a": {"method": "prompt_tuning", "r": 4}}, r"adapters: a: unknown key 'r' for method prompt_tuning"),
    ],
    ids=str,
)
def test_what_is_no_recipe(adapters: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SharedRecipe.parse({"data": "rows.jsonl", "adapters": adapters})


def test_the_recipe_in_the_docs_can_be_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "many_adapters.md").read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    shared = SharedRecipe.parse(yaml.safe_load(text))
    assert list(shared.recipes) == ["small", "large", "again", "prompt"]
    assert shared.recipes["prompt"].run.data == "examples/reviews.jsonl#40"
