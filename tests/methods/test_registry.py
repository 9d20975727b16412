"""The registry, and what each method says of itself."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from petune import methods
from petune.backbone.task_names import TaskName
from petune.errors import ConfigError
from petune.methods.method import Finding


def test_names_are_sorted_and_complete() -> None:
    assert methods.names() == tuple(sorted(methods.REGISTRY))
    assert {"lora", "full"} <= set(methods.names())


@pytest.mark.parametrize("name", methods.names())
def test_each_method_keeps_the_contract_of_its_class(name: str) -> None:
    method = methods.get(name)
    assert method.name == name
    assert method.title
    assert bool(method.sites) is method.trains
    assert 0 < method.learning_rate < 1 or not method.trains
    assert method.paper is None or method.paper.url.startswith("https://")
    assert method.build.__doc__
    config = method.configure({})
    with pytest.raises(ValidationError, match="frozen"):
        config.__setattr__(next(iter(type(config).model_fields)), None)
    for field_name, field in type(config).model_fields.items():
        assert field.description, f"{field_name} has no docstring"
    assert method.configure(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", methods.names())
def test_a_variation_is_a_change_of_its_settings(name: str) -> None:
    method = methods.get(name)
    usual = method.configure({})
    changed = [method.configure(variation) for variation in method.variations]
    assert all(config != usual for config in changed)
    assert all(config not in changed[:i] for i, config in enumerate(changed))
    assert not (method.baseline and method.variations)


@pytest.mark.parametrize("name", methods.names())
def test_a_finding_is_a_sentence_with_a_paper(name: str) -> None:
    method = methods.get(name)
    for finding in method.evidence:
        assert finding.says.endswith(".")
        assert (finding.paper or method.paper) is not None
        assert finding.parameters[0] < finding.parameters[1]
    assert not (method.baseline and method.evidence)


@pytest.mark.parametrize(
    ("task", "parameters", "rows", "holds"),
    [
        ("causal_lm", 10, 4, True),
        ("masked_lm", 10, 4, False),
        ("causal_lm", 9, 4, False),
        ("causal_lm", 20, 4, False),
        ("causal_lm", 19, 5, False),
    ],
)
def test_a_finding_is_about_runs_like_those_it_was_found_in(
    task: TaskName, parameters: int, rows: int, holds: bool
) -> None:
    finding = Finding("Good.", "works", tasks=("causal_lm",), parameters=(10, 20), rows_below=5)
    assert finding.holds(task, parameters=parameters, rows=rows) is holds
    assert Finding("Good.", "works").holds(task, parameters=parameters, rows=rows)


def test_unknown_method_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'LoRa'; the methods are .*, lora, "):
        methods.get("LoRa")
    with pytest.raises(ConfigError, match=r"Did you mean 'full'\?"):
        methods.get("ful")


def test_names_and_configs_need_no_torch() -> None:
    program = "import sys, petune.methods, petune.methods.config; petune.methods.names(); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "False"
