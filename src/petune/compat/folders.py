"""Where the files of an adapter are that a script names: a folder of this machine, or a repository of the hub."""

from pathlib import Path
from typing import Any

import huggingface_hub

from petune.backbone.refusals import explained
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
    if not folder.is_dir():
        files = [f"{subfolder}/{file}" if subfolder else file for file in (CONFIG_FILE, WEIGHTS_FILE, "petune.json")]
        with explained(str(name), hub=True, revision=hub.get("revision")):
            folder = Path(huggingface_hub.snapshot_download(str(name), allow_patterns=files, **hub))
    return folder / subfolder if subfolder else folder
