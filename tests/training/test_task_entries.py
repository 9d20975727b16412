"""The tasks of a recipe: what an entry takes from the run, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from petune.errors import ConfigError
from petune.training.recipe import Recipe

TASKS: list[dict[str, Any]] = [
    {"name": "sentiment", "data": "a.jsonl", "columns": {"text": "review"}, "validation_split": 5},
    {
        "name": "ner",
        "data": "b.jsonl",
        "task": "token_classification",
        "eval_data": "c.jsonl",
        "metrics": ["entity_f1"],
    },
]


def test_what_an_entry_leaves_out_is_as_the_run_has_it() -> None:
    keys = {"tasks": TASKS, "max_length": 64, "validation_split": 0.5, "metrics": ["accuracy"], "overlong": "drop"}
    first, second = Recipe.parse({**keys, "task": "sequence_classification"}).run.run_tasks()
    assert (first.data.data, first.data.max_length, first.data.overlong) == ("a.jsonl", 64, "drop")
    assert (first.data.validation_split, first.data.columns, first.metrics) == (5, {"text": "review"}, ("accuracy",))
    assert (first.task, second.task) == ("sequence_classification", "token_classification")
    assert (second.data.eval_data, second.data.validation_split, second.data.columns) == ("c.jsonl", None, None)
    assert second.metrics == ("entity_f1",)


def test_a_run_without_entries_has_one_task_without_a_name() -> None:
    (task,) = Recipe.parse({"data": "a.jsonl", "metrics": ["accuracy"], "validation_split": 1}).run.run_tasks()
    assert (task.name, task.data.data, task.metrics, task.weight) == ("", "a.jsonl", ("accuracy",), None)


def test_a_recipe_with_tasks_is_written_as_it_was_given(tmp_path: Path) -> None:
    recipe = Recipe.parse({"tasks": TASKS, "metric_for_best_model": "ner/entity_f1"})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    again = Recipe.read(tmp_path / "recipe.yaml")
    assert (again, again.keys()["tasks"]) == (recipe, TASKS)
    assert recipe.differences(again) == []
    changed = Recipe.parse({"tasks": TASKS[:1], "max_length": 9})
    assert [said.partition(" ")[0] for said in changed.differences(recipe)] == [
        "max_length", "metric_for_best_model", "tasks",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            "a.jsonl",
            r"tasks is 'a.jsonl'; give a list of entries, such as \[\{name: sentiment, data: reviews.jsonl\}\]",
        ),
        (["a.jsonl"], "task 1 is 'a.jsonl'; expected keys and values, such as name and data"),
        ([{"name": "a", "dta": "x"}], r"task 'a': unknown key 'dta'. Did you mean 'data'\?"),
        ([{"data": "x"}], "task 1: 'name' is .*: Field required"),
        ([{"name": "a b", "data": "x"}], "'name' is 'a b': String should match pattern"),
        ([{"name": "a"}], "task 'a': there is no data; name a file or a hub data set id"),
        ([{"name": "a", "data": "x", "task": "ner"}], "task 'a': 'task' is 'ner': Input should be 'causal_lm'"),
        ([{"name": "a", "data": "x"}] * 2, "two tasks are called 'a'; give each a name of its own"),
        ([{"name": "a", "data": "x", "weight": 0}], "task 'a': 'weight' is 0: Input should be greater than 0"),
        ([{"name": "a", "data": "x", "weight": -1}], "task 'a': 'weight' is -1: Input should be greater than 0"),
        (
            [{"name": "a", "data": "x", "weight": 2}, {"name": "b", "data": "y"}],
            "'b' has no weight, and 'a' has one; give all tasks a weight, or none",
        ),
        (
            [{"name": "a", "data": "x", "eval_data": "y", "validation_split": 0.1}],
            "task 'a': validation_split and eval_data are both given",
        ),
    ],
    ids=range(12),
)
def test_entries_that_make_no_sense(tasks: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.parse({"tasks": tasks})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": "x"}, "beside tasks data would do nothing; write it in the entries of tasks"),
        ({"data": "x", "eval_data": "y"}, "beside tasks data and eval_data would do nothing"),
        ({"metric_for_best_model": "entity_f1"}, "measured are loss, sentiment/loss, sentiment/perplexity, ner/loss"),
        ({"validation_split": 0.1, "train_on": "some"}, "'train_on' is 'some'"),
    ],
)
def test_keys_of_the_run_that_do_not_go_with_tasks(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.parse({"tasks": TASKS, **keys})


def test_without_validation_rows_metrics_are_idle() -> None:
    tasks = [{"name": "a", "data": "x"}]
    with pytest.raises(ConfigError, match="without validation rows metrics would do nothing"):
        Recipe.parse({"tasks": tasks, "metrics": ["accuracy"]})
    assert Recipe.parse({"tasks": tasks, "metrics": ["accuracy"], "validation_split": 1}).run.metrics == ("accuracy",)
