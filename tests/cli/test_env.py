from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import petune as package


def test_versions_devices_and_folders(
    petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("PETUNE_HOME", str(folder / "home"))
    lines = dict(line.split(maxsplit=1) for line in petune("env").splitlines())
    assert lines["petune"] == package.__version__
    assert lines["torch"] == version("torch")
    assert lines["cache"] == str(folder / "home")
    assert {"python", "transformers", "device", "dtype"} <= lines.keys()


def test_a_package_that_is_not_there(petune: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petune.cli.env._PACKAGES", ("no-such-package",))
    assert "no-such-package not installed" in petune("env")
