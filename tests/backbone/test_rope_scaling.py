"""Up to which length angles of rotary embeddings are the same."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel

from petune.backbone.rope_scaling import turned_as, unscaled_length

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 6.0, 8.0, 10.0],
    "original_max_position_embeddings": 32,
    "factor": 8.0,
}


@pytest.mark.parametrize(
    ("architecture", "changes", "length"),
    [
        ("gpt2", {}, None),
        ("llama", {}, None),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, None),
        ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 64}, 63),
        ("llama", {"rope_parameters": LONG, "max_position_embeddings": 256}, 32),
    ],
)
def test_kinds_that_depend_on_the_length(
    architecture: str, changes: dict[str, Any], length: int | None, tiny_model: Callable[..., PreTrainedModel]
) -> None:
    assert unscaled_length(tiny_model(architecture, **changes)) == length


def test_the_shortest_sequence_that_is_turned_alike(tiny_model: Callable[..., PreTrainedModel]) -> None:
    plain, longrope, dynamic = (
        tiny_model("llama", max_position_embeddings=64, **changes)
        for changes in ({}, {"rope_parameters": LONG}, {"rope_parameters": DYNAMIC})
    )
    assert [turned_as(plain, length) for length in (1, 64, 200)] == [0, 0, 0]
    assert [turned_as(longrope, length) for length in (32, 33, 40, 64)] == [0, 33, 33, 33]
    assert [turned_as(dynamic, length) for length in (63, 64, 65, 200)] == [0, 64, 65, 200]


def test_layers_of_several_kinds(tiny_model: Callable[..., PreTrainedModel]) -> None:
    model = tiny_model("llama", max_position_embeddings=256)
    plain = {"rope_type": "default", "rope_theta": 1e4}
    model.config.rope_parameters = {"full_attention": LONG, "sliding_attention": plain}
    assert unscaled_length(model) == 32
    model.config.rope_parameters = {"full_attention": plain, "sliding_attention": plain}
    assert unscaled_length(model) is None
