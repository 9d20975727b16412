"""`petune --help` answers at once, and loads nothing heavy."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from petune.cli.main import COMMANDS

HEAVY = ("accelerate", "datasets", "matplotlib", "pandas", "sklearn", "torch", "transformers")
SECONDS = 0.5


def loaded_by(statement: str) -> list[str]:
    """Return which heavy packages a fresh interpreter has loaded after ``statement``."""
    program = (
        f"import json, sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n"
        f"print('\\n' + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


@pytest.mark.parametrize(
    "statement",
    [
        "import petune",
        "from petune.cli.main import main; main(['--help'])",
        "from petune.cli.main import main; main([])",
        *(f"from petune.cli.main import main; main([{name!r}, '--help'])" for name in COMMANDS if name != "train"),
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    assert loaded_by(statement) == []


def test_a_second_demo_loads_nothing_heavy(tmp_path: Path) -> None:
    results = {
        "rows": 2000, "test_rows": 500, "before": {"accuracy": 0.5}, "after": {"accuracy": 0.9}, "answers": [],
        "data_report": "", "steps": 1, "training_seconds": 1.0, "peak_memory_bytes": 1, "total_seconds": 1.0,
    }  # fmt: skip
    (tmp_path / "demo_results.json").write_text(json.dumps(results), encoding="utf-8")
    arguments = ["demo", "--output-dir", str(tmp_path)]
    assert loaded_by(f"from petune.cli.main import run; assert run({arguments!r}) == 0") == []


def test_a_heavy_import_is_found() -> None:
    assert loaded_by("import matplotlib") == ["matplotlib"]


def test_help_answers_at_once() -> None:
    command = [sys.executable, "-c", "from petune.cli.main import main; main(['--help'])"]
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    # Seconds of the processor, and the best of several: other programs of a busy machine are not counted.
    assert min(times) < SECONDS
