"""A saved adapter folder to damage."""

from collections.abc import Callable
from pathlib import Path

import pytest

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import save_adapter


@pytest.fixture
def saved(tmp_path: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]) -> Path:
    """The folder of a LoRA on the tiny llama."""
    base = tiny_base()
    adapter = create_adapter(base, "lora", r=4, target_modules=("q_proj", "v_proj"))
    return save_adapter(AdaptedModel(base, [randomise(adapter)]), tmp_path / "adapter")
