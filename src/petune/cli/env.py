"""`petune env`: versions, devices and folders, for a bug report."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from petune import __version__
from petune.cli.command import new_app
from petune.cli.reporting import say

if TYPE_CHECKING:
    import torch

app = new_app()

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "safetensors", "tokenizers", "peft", "gguf")


@app.command(help="Show versions, devices and folders.")
def env() -> None:
    """Show versions, devices and folders."""
    import torch

    from petune.backbone.cache import cache_folder
    from petune.backbone.precision import pick_device, pick_dtype

    say(f"petune        {__version__}")
    say(f"python        {platform.python_version()} on {platform.platform()}")
    for package in _PACKAGES:
        say(f"{package:<13} {_version(package)}")
    device = pick_device("auto")
    say(f"device        {device}, {_device_name(device)}")
    say(f"dtype         {str(pick_dtype('auto', device)).removeprefix('torch.')} (what --dtype auto means here)")
    say(f"cpu threads   {torch.get_num_threads()} of {os.cpu_count()} cores")
    say(f"cache         {cache_folder()}")


def _device_name(device: "torch.device") -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
