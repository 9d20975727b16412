"""Where an adapter's files are: folders and repositories."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from petune.compat.folders import adapter_folder
from petune.errors import BaseModelError, ConfigError


def test_a_folder_is_itself(tmp_path: Path) -> None:
    (tmp_path / "german").mkdir()
    assert adapter_folder(tmp_path) == tmp_path
    assert adapter_folder(str(tmp_path), subfolder="german") == tmp_path / "german"


def test_a_repository_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert adapter_folder("user/adapter", subfolder="german", revision="v1", token="t") == tmp_path / "german"
    assert (asked["name"], asked["revision"], asked["token"]) == ("user/adapter", "v1", "t")
    assert asked["allow_patterns"] == [
        "german/adapter_config.json", "german/adapter_model.safetensors", "german/petune.json",
    ]  # fmt: skip


def test_all_that_an_adapter_is_made_of_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"petune.json": json.dumps({"files": {"chat_template.jinja": "", "adapter_config.json": ""}})}
    asked: list[list[str]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        for file in allow_patterns:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(there.get(Path(file).name, "{}"))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    folder = adapter_folder("user/adapter", subfolder="german")
    assert folder == tmp_path / "german"
    assert asked[1] == ["german/chat_template.jinja", "german/adapter_config.json"]


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(BaseModelError, match="user/adapter is no folder here and not in the cache"):
        adapter_folder("user/adapter")
    with pytest.raises(ConfigError, match=r"'revison' is not supported.*Did you mean 'revision'"):
        adapter_folder("user/adapter", revison="v1")
