"""The environment of each peer: a virtual environment of its own, so that no version has to suit two programs."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from petune.backbone.cache import cache_folder
from race.peers import Peer

COMPLETE = "complete"


class PreparationError(RuntimeError):
    """An environment could not be built; the message ends with what pip said."""


def requirements(peer: Peer) -> tuple[str, ...]:
    """Return what goes into a peer's environment: its own packages, and the torch that petune itself runs on."""
    return (f"torch=={version('torch').partition('+')[0]}", *peer.requirements)


def folder_of(name: str, peer: Peer) -> Path:
    """Return where a peer's environment lies; other requirements, or another Python, make it another one."""
    wanted = "\n".join([f"{sys.version_info.major}.{sys.version_info.minor}", *requirements(peer)])
    return cache_folder() / "race" / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:10]}"


def find_python(name: str, peer: Peer) -> Path | None:
    """Return the interpreter of a peer's environment; None where it was not prepared."""
    folder = folder_of(name, peer)
    return _python(folder) if (folder / COMPLETE).is_file() else None


def prepare(name: str, peer: Peer, tell: Callable[[str], None]) -> Path:
    """Build a peer's environment where it is missing, and return its interpreter.

    pip is run as it is configured on this machine, and decides where packages come from.

    Raises:
        PreparationError: pip failed.
    """
    found = find_python(name, peer)
    if found is not None:
        tell(f"  {peer.title}: prepared already, {found.parents[1]}")
        return found
    folder = folder_of(name, peer)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tell(f"  {peer.title}: installing {', '.join(requirements(peer))} into {folder}")
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(_python(folder)), "-m", "pip", "install", "--quiet", *requirements(peer)])
    (folder / COMPLETE).write_text("\n".join(requirements(peer)) + "\n", encoding="utf-8")
    return _python(folder)


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(command: list[str]) -> None:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PreparationError(f"{' '.join(command[:4])} ... failed ({done.returncode}): {done.stderr[-2000:]}")
