"""The parts of the experiment: which recipe each has, and what an edition changes in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from petune.training.recipe import read_yaml

Scale = Literal["full", "small", "smoke"]
SCALES: tuple[Scale, ...] = get_args(Scale)

HERE = Path(__file__).parent
OUTPUTS = Path("outputs/experiment")

PARTS: Mapping[str, str] = {
    "dialogues_chinese": "Chinese dialogues",
    "dialogues_english": "English dialogues",
    "reviews_chinese": "Chinese reviews",
    "reviews_english": "English reviews",
    "overfitting": "32 dialogues, many passes",
    "few_rows": "50 dialogues, starts of a prefix",
    "prefix_lengths": "lengths of a prefix",
    "infix": "prefix and infix",
    "ranks": "ranks of LoRA",
    "modules": "modules of LoRA",
    "encoder_reviews": "English reviews, encoder",
    "encoder_entities": "Chinese entities, encoder",
}
"""The parts, with what they are called in tables."""

ORDER = (
    "encoder_entities", "overfitting", "prefix_lengths", "few_rows", "infix", "ranks", "modules", "dialogues_english",
    "dialogues_chinese", "reviews_english", "reviews_chinese", "encoder_reviews",
)  # fmt: skip
"""The order in which they run: small contrasts first, so that a run that is stopped has decided most."""

_SMOKE = {
    "budget": 2,
    "budget_unit": "steps",
    "seeds": [1],
    "rate_factors": [1],
    "evaluations": 1,
    "max_new_tokens": 4,
    "per_device_train_batch_size": 2,
}
_SMOKE_ROWS = 8


def parts_of(scale: Scale) -> tuple[str, ...]:
    """Return the parts of an edition, in their order."""
    return tuple(part for part in ORDER if scale != "small" or part in _small())


def recipe_of(part: str, scale: Scale) -> dict[str, Any]:
    """Return the keys of a part's comparison."""
    keys = read_yaml(HERE / "recipes" / f"{part}.yaml") | {"output_dir": str(OUTPUTS / scale / part)}
    if scale == "small":
        keys |= _small()[part]
    if scale == "smoke":
        rows = {name: f"{str(keys[name]).partition('#')[0]}#{_SMOKE_ROWS}" for name in _sources(keys)}
        split = {"validation_split": 2} if "validation_split" in keys else {}
        keys |= _SMOKE | rows | split
    return keys


def _sources(keys: Mapping[str, Any]) -> list[str]:
    return [name for name in ("data", "eval_data", "test_data") if name in keys]


def _small() -> dict[str, dict[str, Any]]:
    return read_yaml(HERE / "small.yaml")
