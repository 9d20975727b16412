"""Folders as users write them."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator


def at_home(path: str) -> str:
    """Return ``path`` with the home folder in place of a leading ``~``."""
    return str(Path(path).expanduser()) if path.startswith("~") else path


FolderName = Annotated[str, AfterValidator(at_home)]
"""A folder, perhaps below the home folder ``~``."""
