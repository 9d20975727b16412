from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.comparison import engine as module
from petune.comparison import machine
from petune.comparison.engine import LocalEngine, status_of
from petune.comparison.folder import Folder
from petune.comparison.plan import Track
from petune.comparison.recipe import CompareRecipe
from petune.comparison.split import PartFiles
from petune.comparison.survey import survey
from petune.comparison.watching import Unwatched
from petune.errors import (
    ConfigError,
    DivergedError,
    Interrupted,
    MissingExtraError,
    OutputFolderError,
    PetuneError,
    ResourceError,
)


@pytest.fixture
def engine_for(
    compare_keys: Callable[..., dict[str, Any]], part_files: PartFiles, tmp_path: Path
) -> Callable[..., tuple[LocalEngine, Track]]:
    """Make an engine for one method on the tiny base."""

    def make(method: str = "lora", **changes: Any) -> tuple[LocalEngine, Track]:
        recipe = CompareRecipe.parse(compare_keys(methods=[method], **changes))
        found = survey(recipe.options.models[0], recipe.options, part_files)
        track = Track(found, recipe.entries()[0], recipe, part_files, ("a", "b", "c"))
        return LocalEngine([track], Folder(tmp_path / "out"), Unwatched()), track

    return make


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), "out_of_memory"),
        (ResourceError("not enough memory to load"), "out_of_memory"),
        (ResourceError("no space left while writing"), None),
        (MissingExtraError("pip install"), "failed"),
        (DivergedError("the loss is nan"), "failed"),
        (RuntimeError("shapes differ"), "failed"),
        (ConfigError("not here"), "refused"),
    ],
)
def test_how_a_trial_ended(error: Exception, status: str | None) -> None:
    assert status_of(error) == status


def test_a_trial_that_cannot_work_is_not_started(
    engine_for: Callable[..., tuple[LocalEngine, Track]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "perform", lambda *_, **__: pytest.fail("it was started"))
    engine, track = engine_for("bitfit")
    (trial,) = engine.run(track.final_jobs(track.candidates[0]))
    assert trial.status == "refused"
    assert "no biases" in str(trial.reason)
    monkeypatch.setattr(machine, "memory", lambda device: 1000)
    engine, track = engine_for("full")
    (trial,) = engine.run(track.final_jobs(track.candidates[0]))
    assert trial.status == "out_of_memory"
    assert "it would need 0.0 GiB at the least, and there are 0.0 GiB; it was not started" in str(trial.reason)


def test_a_failure_is_a_record_and_leaves_nothing(
    engine_for: Callable[..., tuple[LocalEngine, Track]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(job: Any, bench: Any, folder: Path, **_: Any) -> None:
        (folder / "adapter").mkdir(parents=True)
        raise RuntimeError("something\nbroke")

    monkeypatch.setattr(module, "perform", fail)
    engine, track = engine_for()
    (trial,) = engine.run(track.final_jobs(track.candidates[0]))
    assert (trial.status, trial.reason) == ("failed", "RuntimeError: something broke")
    assert not list((tmp_path / "out").rglob("adapter"))
    assert trial.command.startswith("petune train ")


@pytest.mark.parametrize("error", [Interrupted("stop", 2), OutputFolderError("read-only"), ResourceError("disk full")])
def test_what_ends_everything(
    error: PetuneError, engine_for: Callable[..., tuple[LocalEngine, Track]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(module, "perform", fail)
    engine, track = engine_for()
    with pytest.raises(type(error), match=str(error)):
        list(engine.run(track.final_jobs(track.candidates[0])))
