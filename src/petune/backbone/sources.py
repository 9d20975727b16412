"""What the name of a base model means: ``demo``, a GGUF file, a local folder, or a Hugging Face id."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from petune.backbone.demo import demo_gguf
from petune.backbone.digests import weight_files
from petune.backbone.gguf import plain_folder
from petune.backbone.refusals import CONVERT
from petune.errors import ArtifactError, BaseModelError, ConfigError, nearest

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Source:
    """Where a base model is loaded from.

    Attributes:
        name: what is recorded of it: the hub id, the absolute path, or ``demo``.
        location: what transformers loads: a folder's path, or the hub id.
        folder: the same folder, or None for a hub id.
        gguf: the GGUF file that the folder was converted from, if any.
        revision: the hub branch, tag or commit asked for, if any.
    """

    name: str
    location: str
    folder: Path | None
    gguf: Path | None = None
    revision: str | None = None


def resolve(model: str | os.PathLike[str], *, revision: str | None = None) -> Source:
    """Tell what kind of base model ``model`` names, converting a GGUF file on the way.

    ``demo`` always means the demo model (``./demo`` is a folder of that name). An existing path wins over a
    hub id.

    Raises:
        BaseModelError: no such path and no possible hub id, or a folder that no base model can be loaded
            from.
        ArtifactError: a damaged file.
        ConfigError: a revision of something that is not on the hub.
    """
    name = os.fspath(model)
    path = Path(name).expanduser()
    if name != "demo" and not path.exists() and _is_hub_id(model):
        return Source(name, name, folder=None, revision=revision)
    if revision is not None:
        raise ConfigError(f"revision {revision!r} was given, and {name!r} is no Hugging Face id; leave it out")
    if name == "demo":
        gguf = demo_gguf()
        return _local("demo", plain_folder(gguf), gguf)
    path = path.absolute()
    if path.is_dir():
        _check_folder(path)
        return _local(str(path), path, None)
    if not path.exists():
        raise _not_there(path)
    if path.suffix.lower() != ".gguf":
        raise BaseModelError(f"{path} is a file, and no GGUF file; give its folder, a .gguf file, a hub id, or demo")
    return _local(str(path), plain_folder(path), path)


def _local(name: str, folder: Path, gguf: Path | None) -> Source:
    return Source(name, str(folder), folder, gguf)


def _is_hub_id(model: str | os.PathLike[str]) -> bool:
    return isinstance(model, str) and bool(_HUB_ID.fullmatch(model)) and not model.lower().endswith(".gguf")


def _not_there(path: Path) -> BaseModelError:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return BaseModelError(
        f"there is no file or folder {path}.{nearest(path.name, siblings)} A base model is a Hugging Face id, a "
        "local folder, a .gguf file, or demo"
    )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise BaseModelError(f"{folder} holds an adapter, not a base model{_base_of_adapter(folder)}")
        files = sorted(folder.glob("*.gguf"))
        hint = f"; name the GGUF file itself: {files[0]}" if files else "; give a folder that save_pretrained wrote"
        raise BaseModelError(f"{folder} has no config.json, so it is no model folder{hint}")
    if weight_files(folder):
        return
    others = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if not others:
        raise BaseModelError(f"{folder} has a config.json and no weights (model.safetensors); fetch the model again")
    raise BaseModelError(f"{folder} has its weights only as {others[0]}, and petune reads safetensors. {CONVERT}")


def _base_of_adapter(folder: Path) -> str:
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / 'adapter_config.json'} is malformed ({error!r})") from error
    return f"; its base is {base!r}: give that"
