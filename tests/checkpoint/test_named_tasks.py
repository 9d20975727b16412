"""One task out of a folder for several."""

import pytest
import torch

from petune.adapter import LearnedTask
from petune.checkpoint.named_tasks import choose_task, of_task, require_choice
from petune.errors import ConfigError

TASKS = (
    LearnedTask("text", "causal_lm", (), None, 10, {}),
    LearnedTask("ner", "token_classification", ("O", "X"), "task_ner", 10, {}),
)


def test_a_task_is_chosen_by_name() -> None:
    assert choose_task("out", TASKS, "ner") is TASKS[1]
    with pytest.raises(ConfigError, match=r"out was trained for text, ner, not for 'net'.*Did you mean 'ner'\?"):
        choose_task("out", TASKS, "net")
    with pytest.raises(ConfigError, match="out was trained for one task, which has no name; leave --task-name ner out"):
        choose_task("out", (), "ner")


def test_a_choice_is_needed_where_there_are_several_heads() -> None:
    require_choice("out", (), None)
    require_choice("out", TASKS[:1], None)
    require_choice("out", TASKS, "ner")
    with pytest.raises(ConfigError, match=r"out was trained for text, ner; say with task_name \(--task-name\) which"):
        require_choice("out", TASKS, None)


def test_the_tensors_of_one_task_go_by_the_names_they_have_alone() -> None:
    tensors = {name: torch.tensor(float(i)) for i, name in enumerate(("layer.A", "score.own", "task_ner.score.own"))}
    names = {"layer.A": "layer.A", "score.own": "score.own", "more": "more"}
    assert of_task(tensors, names, "task_ner") == {"layer.A": tensors["layer.A"], "score.own": torch.tensor(2.0)}
    assert of_task(tensors, names, None) == {"layer.A": tensors["layer.A"], "score.own": torch.tensor(1.0)}
