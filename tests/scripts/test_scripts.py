"""The scripts: readable by bash, executable, and setting up once."""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [ROOT / "scripts" / name for name in ("check", "demo", "setup-environment", "test")] + [ROOT / ".ci" / "run"]
# Stands in for pip: notes what it was asked to do, and does nothing.
PIP = "import pathlib, sys\nwith open('pip.log', 'a') as log:\n    print(*sys.argv[1:], file=log)\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what setting up reads, in a folder of its own."""
    for name in ("scripts/setup-environment", "pyproject.toml", "constraints.txt", "src/petune/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def set_up(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Run the script in an environment without packages; return the calls of pip that it made."""
    venv.create(checkout / ".venv", with_pip=False)
    (packages,) = (checkout / ".venv").glob("lib/python*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__init__.py").touch()
    (packages / "pip" / "__main__.py").write_text(PIP)
    monkeypatch.chdir("/")

    def run(*arguments: str) -> list[str]:
        log = checkout / "pip.log"
        log.unlink(missing_ok=True)
        subprocess.run([checkout / "scripts" / "setup-environment", *arguments], check=True, capture_output=True)
        return log.read_text().splitlines() if log.exists() else []

    return run


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.stat().st_mode & 0o111
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n#")
    assert "set -euo pipefail" in text


def test_all_scripts_are_known() -> None:
    found = {path for path in (ROOT / "scripts").iterdir() if path.is_file() and path.suffix != ".py"}
    assert found == set(SCRIPTS[:-1])


def test_setting_up_twice_installs_once(set_up: Callable[..., list[str]]) -> None:
    (call,) = set_up()
    assert call.endswith("--constraint constraints.txt --editable .")
    assert set_up() == []
    (call,) = set_up("dev")
    assert call.endswith("--editable .[dev]")
    assert set_up("dev") == []
    assert set_up() == []


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_a_change_of_what_is_installed_installs_again(
    name: str, checkout: Path, set_up: Callable[..., list[str]]
) -> None:
    set_up("dev")
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert len(set_up("dev")) == 1


def test_a_failed_installation_is_not_taken_for_done(checkout: Path, set_up: Callable[..., list[str]]) -> None:
    (main,) = (checkout / ".venv").glob("lib/python*/site-packages/pip/__main__.py")
    main.write_text("raise SystemExit(1)")
    done = subprocess.run([checkout / "scripts" / "setup-environment"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("setup-environment: error: pip could not install petune")
    main.write_text(PIP)
    assert len(set_up()) == 1


def test_a_missing_python_is_one_clear_line(checkout: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(checkout / "python3")}
    done = subprocess.run(
        [checkout / "scripts" / "setup-environment"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no Python 3.11 or later found" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_one_clear_line(checkout: Path) -> None:
    fake = checkout / "python3"
    fake.write_text(f'#!/bin/sh\ncase "$2" in *venv*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(fake)}
    done = subprocess.run(
        [checkout / "scripts" / "setup-environment"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "has no venv module" in done.stderr


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=\[]", line)[0].lower().replace("_", "-") for line in wanted}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert names - pinned == set()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if not line.startswith("#"))
