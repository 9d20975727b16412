"""How far attentions look back, by the config."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel

from petune.backbone.windows import attention_window


@pytest.mark.parametrize(
    ("architecture", "changes", "window"),
    [
        ("llama", {}, None),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 40}, 40),
        ("llama4_text", {"attention_chunk_size": 50}, 50),
        ("gemma2", {"sliding_window": 30}, 30),
    ],
)
def test_the_smallest_window_of_the_config(
    architecture: str, changes: dict[str, Any], window: int | None, tiny_model: Callable[..., PreTrainedModel]
) -> None:
    assert attention_window(tiny_model(architecture, **changes)) == window
