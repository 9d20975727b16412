"""The manifest: what it vouches for, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from petune.checkpoint.manifest import FILE_NAME, read_json, read_manifest, tensors_digest
from petune.errors import AdapterFormatError


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / FILE_NAME).read_text())
    edit(content)
    (folder / FILE_NAME).write_text(json.dumps(content))


def test_sound_folder(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert manifest is not None
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= manifest.files.keys()
    assert manifest.base.name == "tiny-llama"
    assert manifest.config["r"] == 4
    assert manifest.versions.keys() == {"petune", "torch", "transformers", "safetensors"}
    assert read_manifest(saved.parent) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(format=2), r"format 2, this petune reads up to 1; upgrade petune"),
        (lambda c: c.update(format="x"), r"'format': Input should be a valid integer"),
        (lambda c: c.update(surprise=1), r"'surprise': Extra inputs are not permitted"),
        (lambda c: c.pop("digest"), r"'digest': Field required; restore it from a copy"),
        (lambda c: c["base"].pop("name"), r"'base\.name': Field required"),
        (lambda c: c["files"].update({"../a": "0"}), r"lists '\.\./a', which is not a file of this folder"),
        (lambda c: c["files"].update({"/etc/passwd": "0"}), r"lists '/etc/passwd', which is not a file"),
        (lambda c: c["files"].update({"gone": "0"}), r"lost its file gone"),
        (lambda c: c["files"].update({"": "0"}), r"lost its file"),
        (lambda c: c["files"].update({"README.md": "0"}), r"README\.md is not the file that was saved \(SHA-256"),
    ],
)
def test_bad_content_is_refused_by_name(saved: Path, edit: Callable[[dict[str, Any]], Any], message: str) -> None:
    change(saved, edit)
    with pytest.raises(AdapterFormatError, match=message):
        read_manifest(saved)


def test_a_listed_folder_is_no_file(saved: Path) -> None:
    (saved / "folder").mkdir()
    change(saved, lambda c: c["files"].update(folder="0"))
    with pytest.raises(AdapterFormatError, match="lost its file folder"):
        read_manifest(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not readable JSON"),
        (b"\xff\xfe", "is not readable JSON"),
        (b"[" * 100_000, "is not readable JSON"),
        (b"[1]", "holds list, expected a JSON object"),
        (b"", "is not readable JSON"),
    ],
    ids=["cut", "bytes", "deep", "list", "empty"],
)
def test_bad_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(AdapterFormatError, match=message):
        read_json(tmp_path / "a.json")


def test_missing_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterFormatError, match=r"has no a\.json; give the folder of an adapter"):
        read_json(tmp_path / "a.json")


def test_tensors_digest_depends_on_everything_but_the_order() -> None:
    a, b = torch.arange(4.0), torch.ones(2, 2)
    digest = tensors_digest({"a": a, "b": b})
    assert digest == tensors_digest({"b": b.clone(), "a": a.clone()})
    others = [{"a": b, "b": a}, {"a": a}, {"a": a, "c": b}, {"a": a.view(2, 2), "b": b}, {"a": a.bfloat16(), "b": b}]
    assert len({digest, *map(tensors_digest, others)}) == 6
    assert tensors_digest({"t": torch.arange(6).view(2, 3).t()}) == tensors_digest(
        {"t": torch.arange(6).view(2, 3).t().contiguous()}
    )
