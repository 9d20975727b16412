"""Reading safetensors files."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from petune.errors import AdapterFormatError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises:
        AdapterFormatError: it is missing, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise AdapterFormatError(
            f"{path} is not a readable safetensors file ({error}); restore it from a copy"
        ) from error
