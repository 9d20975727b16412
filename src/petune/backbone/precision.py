"""Which device and which floating-point type a base model is loaded on and in."""

import torch

from petune.backbone.processor import has_bfloat16
from petune.errors import ConfigError, nearest

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""The spellings ``dtype`` takes, besides ``auto``."""


def pick_device(device: str) -> torch.device:
    """Return the device that ``device`` names; ``auto`` is CUDA where there is some, else the CPU.

    Raises:
        ConfigError: no such device, or this machine does not have it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        picked = torch.device("meta")
    if picked.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:0, cuda:1, ... or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[picked.type]
    if (picked.index or 0) >= count:
        raise ConfigError(f"device {device!r} was asked for and this machine has {count} of that type; use auto or cpu")
    return picked


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Return the type that ``dtype`` names; ``auto`` is bfloat16 where that is fast, else float32.

    Raises:
        ConfigError: no such type.
    """
    if dtype == "auto":
        return torch.bfloat16 if bfloat16_is_fast(device) else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown.{nearest(dtype, DTYPES)} Choose from auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16: then it is no slower than in float32, and half as large."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and has_bfloat16()
