from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petune import methods
from petune.comparison.method_entry import MethodEntry
from petune.comparison.recipe import SHARED_KEYS, CompareRecipe
from petune.errors import ConfigError

DATA = {"data": "rows.jsonl"}


def labels(**keys: Any) -> list[str]:
    return [entry.label for entry in CompareRecipe.parse({**DATA, **keys}).entries()]


def test_names_maps_and_baselines() -> None:
    entries = ["ia3", {"method": "lora", "settings": {"r": 4}}, {"method": "lora", "settings": {"r": 8}}]
    assert labels(methods=entries) == ["ia3", "lora r=4", "lora r=8", "full", "hard_prompts"]
    assert labels(methods=entries, baselines=False) == ["ia3", "lora r=4", "lora r=8"]
    assert labels(methods=["full"]) == ["full", "hard_prompts"]


@pytest.mark.parametrize("value", ["all", ["all"], [], ()])
def test_all_is_every_method(value: Any) -> None:
    assert labels(methods=value) == list(methods.names())
    assert labels() == list(methods.names())


def test_a_rate_goes_along_with_what_has_a_rate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    method = methods.get("prefix_tuning")
    monkeypatch.setattr(type(method), "variations", ({"prefix_projection": True}, {"encoder_hidden_size": 64}))
    (varied,) = MethodEntry(method="prefix_tuning").variations({"learning_rate": 3e-2, "weight_decay": 0.1})
    own = method.rate(method.configure({"prefix_projection": True}))
    assert varied == {"prefix_projection": True, "weight_decay": 0.1, "learning_rate": pytest.approx(3 * own)}
    fixed = MethodEntry(method="prefix_tuning", settings={"prefix_projection": False})
    assert fixed.variations({"prefix_projection": False, "learning_rate": 3e-2}) == ()


def test_candidates_are_multiples_of_the_method_s_own_rate() -> None:
    (entry,) = CompareRecipe.parse({**DATA, "methods": ["ia3"], "baselines": False}).entries()
    own = methods.get("ia3").learning_rate
    rates = [candidate["learning_rate"] for candidate in entry.candidates((0.5, 2.0))]
    assert rates == [pytest.approx(own / 2), pytest.approx(own * 2)]


def test_candidates_combine_what_is_searched() -> None:
    search = {"r": [2, 4], "learning_rate": [1e-4, 1e-3, 1e-2]}
    entry = {"method": "lora", "settings": {"target_modules": "attention"}, "search": search}
    (parsed,) = CompareRecipe.parse({**DATA, "methods": [entry], "baselines": False}).entries()
    found = parsed.candidates((1.0,))
    assert len(found) == 6
    assert {(c["r"], c["learning_rate"]) for c in found} == {(r, x) for r in (2, 4) for x in (1e-4, 1e-3, 1e-2)}
    assert {c["target_modules"] for c in found} == {"attention"}


def test_a_given_rate_is_not_searched() -> None:
    entry = {"method": "lora", "settings": {"learning_rate": 1e-3}}
    (parsed,) = CompareRecipe.parse({**DATA, "methods": [entry], "baselines": False}).entries()
    assert parsed.candidates((0.3, 1.0, 3.0)) == ({"learning_rate": 1e-3},)


def test_yaml_and_back(tmp_path: Path) -> None:
    recipe = CompareRecipe.parse({**DATA, "methods": ["lora"], "seeds": [1, 2], "weight_decay": 0.1})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert CompareRecipe.read(path) == recipe
    assert CompareRecipe.read(path, {"seeds": 3}).options.seeds == (3,)
    assert set(SHARED_KEYS) <= recipe.keys().keys()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sedes": [1]}, "unknown key 'sedes' for a comparison. Did you mean 'seeds'"),
        ({"seed": 1}, "'seed' is decided for each trial by the comparison"),
        ({"learning_rate": 1e-3}, "'learning_rate' is decided for each trial"),
        ({"methods": ["lorra"]}, "unknown method 'lorra'.* Did you mean 'lora'"),
        ({"methods": [{"method": "lora", "settings": {"rr": 4}}]}, "unknown key 'rr' for method lora"),
        ({"methods": [{"method": "lora", "search": {"r": [4, 0]}}]}, "method lora: 'r' is 0"),
        (
            {"methods": [{"method": "lora", "settings": {"per_device_train_batch_size": 2}}]},
            "per_device_train_batch_size is not for one method alone",
        ),
        ({"methods": [{"method": "lora", "sarch": {}}]}, "unknown key 'methods.0.sarch'|Extra inputs"),
        ({"methods": ["lora", "lora"]}, "the entry lora stands under methods twice"),
        (
            {"methods": ["lora", {"method": "lora", "search": {"r": [4, 16]}}]},
            "the entry lora stands under methods twice; give it once, with all that is to be chosen from in its search",
        ),
        ({"seeds": [1, 1]}, "1 stands there twice"),
        ({"models": []}, "at least 1 item"),
        ({"rate_factors": [1, 0]}, "factors must be above 0"),
        ({"budget": 0}, "greater than 0"),
        ({"budget": 1.5, "budget_unit": "steps"}, "budget is 1.5 steps; give a whole number"),
        ({"budget_unit": "hours"}, "'epochs', 'steps', 'tokens' or 'seconds'"),
        ({"test_data": "t.jsonl", "test_split": 0.1}, "test_split and test_data are both given"),
        ({"memory_per_trial": "4GiB"}, "memory_per_trial is for the engine ray, and the engine is local"),
        ({"retries": 2, "engine": "inline"}, "retries is for the engines local and ray, and the engine is inline"),
        ({"engine": "ray", "memory_per_trial": "much"}, "'much' is no size; write it like 500MB"),
        ({"engine": "ray", "gpus_per_trial": 1.5}, "'gpus_per_trial' is 1.5: .*a part of one GPU, such as 0.5"),
        ({"test_split": 1.5}, "test_split is 1.5; give a share"),
        ({"eval_data": "e.jsonl", "validation_split": 0.1}, "validation_split and eval_data are both given"),
        ({"engine": "moon"}, "'local'"),
        ({"weight_decay": -1}, "'weight_decay' is -1"),
        ({"trunk_cache_dir": "here", "trunk_cache": "1GiB"}, "'trunk_cache_dir' is decided for each trial"),
        ({"keep_trunk_cache": True, "trunk_cache": "1GiB"}, "'keep_trunk_cache' is decided for each trial"),
    ],
)
def test_bad_keys(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CompareRecipe.parse({**DATA, **keys})


def test_data_is_needed(compare_keys: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="no training data: give data"):
        CompareRecipe.parse({"methods": ["lora"]})


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    entry = MethodEntry(method="lora", settings={"r": "4"}, search={"learning_rate": ("1e-4", "3e-4")})
    assert entry.candidates((1.0,)) == ({"r": 4, "learning_rate": 1e-4}, {"r": 4, "learning_rate": 3e-4})


def test_a_key_is_given_or_searched() -> None:
    with pytest.raises(ConfigError, match="r stands under settings, which hold in all trials, and under search"):
        MethodEntry(method="lora", settings={"r": 8}, search={"r": (4, 16)}).candidates((1.0,))


def test_an_entry_has_one_name_whatever_the_order_of_its_settings() -> None:
    names = {
        MethodEntry(method="lora", settings=own).label for own in ({"r": 8, "lora_alpha": 4}, {"lora_alpha": 4, "r": 8})
    }
    assert names == {"lora lora_alpha=4 r=8"}


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"r": (2, 4, 2)}, "search has r 2 twice"),
        ({"learning_rate": ("1e-4", 0.0001)}, "search has learning_rate 0.0001 twice"),
        ({"learning_rate": ()}, "search has no values for learning_rate"),
    ],
)
def test_values_to_choose_from_are_there_and_differ(search: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MethodEntry(method="lora", search=search).candidates((1.0,))
