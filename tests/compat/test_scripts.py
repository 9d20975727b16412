"""Scripts as tutorials have them give the same with HF PEFT and with petune: one import is changed."""

import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.backbone.base import Base

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))
ORDINARY = "from peft import "

# What transformers says of its own arguments, and of an attribute that models have.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.fixture
def bases(tiny_base: Callable[..., Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny models in the folders that the scripts load, in the working directory."""
    classes = {"task": "sequence_classification", "labels": ("bad", "good")}
    settings: dict[str, dict[str, Any]] = {"llama": {}, "gpt2": {}, "t5": {"d_kv": 8}, "bert": classes}
    for architecture, changes in settings.items():
        base = tiny_base(architecture, **changes)
        base.model.save_pretrained(tmp_path / architecture)
        base.tokenizer.save_pretrained(tmp_path / architecture)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(script: Path, *, package: str) -> dict[str, Any]:
    """Run a script with its one import taken from ``package``; return what it leaves behind."""
    text = script.read_text(encoding="utf-8")
    assert text.count(ORDINARY) == 1
    copy = Path(f"{package}_{script.stem}.py")
    copy.write_text(text.replace(ORDINARY, f"from {package} import "), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return runpy.run_path(str(copy))


def test_the_scripts_were_found() -> None:
    assert len(SCRIPTS) >= 12


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_script(script: Path, bases: Path) -> None:
    ours = run(script, package="petune.compat.peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT says is not ours to mend
        theirs = run(script, package="peft")

    assert ours["same"].keys() == theirs["same"].keys()
    for name, value in theirs["same"].items():
        if isinstance(value, torch.Tensor | list | float) and not _holds_words(value):
            torch.testing.assert_close(
                ours["same"][name], value, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert ours["same"][name] == value, name
    if "losses" in theirs:
        assert ours["losses"][-1] < ours["losses"][0]
        assert ours["losses"][-1] == pytest.approx(theirs["losses"][-1], rel=0.05)


def _holds_words(value: Any) -> bool:
    return isinstance(value, list) and not all(isinstance(part, int | float) for part in value)
