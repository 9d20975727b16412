import json
from pathlib import Path

import numpy as np
import pytest

from petune.backbone import sources
from petune.backbone.gguf import plain_folder
from petune.backbone.sources import Source, resolve
from petune.errors import ArtifactError, BaseModelError, ConfigError


def test_local_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Source(str(folder), str(folder), folder)
    assert resolve(folder) == resolve(str(folder)) == expected
    monkeypatch.chdir(folder.parent)
    assert resolve(folder.name) == expected


@pytest.mark.parametrize("name", ["gpt2", "org/model-1.5_b"])
def test_hub_id(name: str) -> None:
    assert resolve(name, revision="main") == Source(name, name, None, revision="main")


def test_gguf_file(gguf: tuple[Path, dict[str, np.ndarray]]) -> None:
    path = gguf[0]
    converted = plain_folder(path)
    assert resolve(path) == Source(str(path), str(converted), converted, gguf=path)


def test_demo_even_where_a_folder_is_called_so(
    gguf: tuple[Path, dict[str, np.ndarray]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "demo_gguf", lambda: gguf[0])
    monkeypatch.chdir(folder.parent)
    folder.rename("demo")
    converted = plain_folder(gguf[0])
    assert resolve("demo") == Source("demo", str(converted), converted, gguf=gguf[0])
    assert resolve("./demo").folder == folder.parent / "demo"


def test_path_that_is_not_there(folder: Path) -> None:
    with pytest.raises(
        BaseModelError, match=r"no file or folder .*modle. Did you mean 'model'\? A base model is a Hug"
    ):
        resolve(folder.parent / "modle")
    with pytest.raises(BaseModelError, match=r"no file or folder .*/absent.gguf"):
        resolve("absent.gguf")


def test_neither_path_nor_hub_id() -> None:
    with pytest.raises(BaseModelError, match=r"no file or folder .*/a b c"):
        resolve("a b c")


def test_revision_of_a_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"revision 'v1' was given, and '.*' is no Hugging Face id; leave it out"):
        resolve(folder, revision="v1")


def test_file_of_another_kind(folder: Path) -> None:
    with pytest.raises(BaseModelError, match=r"config.json is a file, and no GGUF file; give its folder"):
        resolve(folder / "config.json")


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"has no config.json, .*give a folder that save_pretrained wrote"):
        resolve(tmp_path)
    (tmp_path / "x.gguf").touch()
    with pytest.raises(BaseModelError, match=r"name the GGUF file itself: .*/x.gguf"):
        resolve(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(BaseModelError, match="holds an adapter, not a base model; its base is 'org/base': give that"):
        resolve(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"adapter_config.json is malformed"):
        resolve(tmp_path)


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match=r"has a config.json and no weights"):
        resolve(folder)


def test_folder_with_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        BaseModelError, match=r"only as pytorch_model.bin, .*convert it once: python -c .*save_pretrain"
    ):
        resolve(folder)
