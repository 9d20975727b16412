import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from petune.backbone.digests import file_digest, weight_files, weights_digest
from petune.errors import ArtifactError


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_digest_is_remembered_until_the_file_changes(tmp_path: Path, petune_home: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    assert file_digest(path) == sha(b"one")
    (remembered,) = (petune_home / "digests").iterdir()
    remembered.write_text("f" * 64)
    assert file_digest(path) == "f" * 64
    path.write_bytes(b"two")
    assert file_digest(path) == sha(b"two")


def test_damaged_memory_is_not_believed(tmp_path: Path, petune_home: Path) -> None:
    (tmp_path / "weights").write_bytes(b"one")
    file_digest(tmp_path / "weights")
    (remembered,) = (petune_home / "digests").iterdir()
    remembered.write_text("f" * 10)
    assert file_digest(tmp_path / "weights") == sha(b"one")


def test_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, petune_home: Path) -> None:
    petune_home.touch()
    (tmp_path / "weights").write_bytes(b"one")
    assert file_digest(tmp_path / "weights") == sha(b"one")


def test_hub_cache_names_large_files_by_digest(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"large")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert file_digest(link) == "a" * 64


def test_many_files_in_name_order(tmp_path: Path) -> None:
    paths = [tmp_path / "b", tmp_path / "a"]
    for path in paths:
        path.write_bytes(path.name.encode())
    expected = sha((sha(b"a") + sha(b"b")).encode())
    assert weights_digest(paths) == weights_digest(paths[::-1]) == f"sha256:{expected}"
    assert weights_digest(paths[:1]) == f"sha256:{sha(b'b')}"


def test_files_of_a_folder(model: LlamaForCausalLM, save: Callable[..., Path], tmp_path: Path) -> None:
    assert [path.name for path in weight_files(save(model))] == ["model.safetensors"]
    sharded = save(model, "sharded", max_shard_size="10KB")
    assert weight_files(sharded) == tuple(sorted(sharded.glob("model-*.safetensors")))
    assert weight_files(tmp_path) == ()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is not an index of safetensors files"),
        ("[]", "is not an index of safetensors files"),
        (
            json.dumps({"weight_map": {"w": "../other.safetensors"}}),
            "names '../other.safetensors', which is not a file",
        ),
        (
            json.dumps({"weight_map": {"w": "gone.safetensors"}}),
            "names 'gone.safetensors', which is not a file",
        ),
    ],
)
def test_damaged_index(index: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path.parent / "other.safetensors").touch()
    with pytest.raises(ArtifactError, match=message):
        weight_files(tmp_path)
