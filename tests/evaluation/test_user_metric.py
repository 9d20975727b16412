import re
from pathlib import Path

import pytest

from petune.errors import ConfigError
from petune.evaluation.metrics import compute, resolve_metric

SHARE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Count:
    equal: int

def metric(predictions, references):
    count = Count(sum(p == r for p, r in zip(predictions, references)))
    return count.equal / len(references)

def both(predictions, references):
    assert isinstance(predictions, list) and isinstance(references, list)
    return {"first": 1, "second": float(len(predictions))}

def broken(predictions, references):
    return 1 / 0

def wordy(predictions, references):
    return "very good"

def odd_keys(predictions, references):
    return {1: 2.0}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "share.py"
    file.write_text(SHARE, encoding="utf-8")
    return file


def run(name: str) -> dict[str, float]:
    return compute(resolve_metric(name), ["a", "b"], ["a", "c"])


def test_default_function_is_called_after_the_file(path: Path) -> None:
    assert run(str(path)) == {"share": 0.5}
    assert run(f"{path}:metric") == {"share": 0.5}


def test_a_function_may_return_several_numbers(path: Path) -> None:
    assert run(f"{path}:both") == {"first": 1.0, "second": 2.0}


def test_a_file_runs_once_for_what_it_holds(path: Path) -> None:
    path.write_text(f"{SHARE}\nfrom pathlib import Path\nPath(__file__).with_suffix('.ran').touch(exist_ok=False)\n")
    for name in (str(path), f"{path}:metric", f"{path}:both"):
        run(name)  # a second run would end with an error
    path.write_text(SHARE.replace("count.equal / len", "2 * count.equal / len"))
    assert run(str(path)) == {"share": 1.0}


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*none\.py for the metric; give the path of a Python file"):
        resolve_metric(str(tmp_path / "none.py"))


def test_missing_function_names_what_there_is(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no function 'brokn'; it defines .*Did you mean 'broken'\?"):
        resolve_metric(f"{path}:brokn")


def test_failure_names_the_line(path: Path) -> None:
    line = SHARE.splitlines().index("    return 1 / 0") + 1
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}:{line}: ZeroDivisionError: division by zero"):
        run(f"{path}:broken")


def test_file_that_does_not_parse_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("x = 1\ndef metric(:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.py:2: SyntaxError"):
        resolve_metric(str(file))


def test_file_that_fails_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("\n\nimport no_such_module_here\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.py:3: ModuleNotFoundError: No module named"):
        resolve_metric(str(file))


def test_result_must_be_numbers(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"share\.py:wordy returned str where a number was expected"):
        run(f"{path}:wordy")
    with pytest.raises(ConfigError, match=r"share\.py:odd_keys returned a dict with the key 1, expected names"):
        run(f"{path}:odd_keys")
