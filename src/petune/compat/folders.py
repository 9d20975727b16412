"""Where the files of an adapter are that a script names: a folder of this machine, or a repository of the hub."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

from petune.backbone.refusals import explained
from petune.checkpoint.manifest import FILE_NAME, listed_files
from petune.checkpoint.peft_layout import CONFIG_FILE, WEIGHTS_FILE
from petune.errors import ConfigError, nearest

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
"""What may be said about a download, by the hub's names."""


def adapter_folder(name: str | Path, *, subfolder: str | None = None, **hub: Any) -> Path:
    """Return the folder that holds the adapter ``name``, fetched from the hub where it is no folder.

    Raises:
        ConfigError: an unknown option.
        BaseModelError: the hub has no such repository, or cannot be reached.
    """
    for option in hub:
        if option not in HUB_OPTIONS:
            raise ConfigError(
                f"'{option}' is not supported; what may be said of a download is"
                f" {', '.join(HUB_OPTIONS)}.{nearest(option, HUB_OPTIONS)}"
            )
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / (subfolder or "")
    folder = _fetched(name, (CONFIG_FILE, WEIGHTS_FILE, FILE_NAME), subfolder, hub)
    others = listed_files(folder)  # a tokenizer, which the adapter is not whole without
    return _fetched(name, others, subfolder, hub) if others else folder


def _fetched(name: str | Path, files: Iterable[str], subfolder: str | None, hub: Mapping[str, Any]) -> Path:
    """Return the folder of this machine that files of a repository have been fetched to, as far as it has them."""
    place = Path(subfolder or "")
    with explained(str(name), hub=True, revision=hub.get("revision")):
        patterns = [(place / file).as_posix() for file in files]
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=patterns, **hub)) / place
