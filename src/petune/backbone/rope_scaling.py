"""Rotary embeddings that turn by other angles in a long sequence than in a short one."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel


def unscaled_length(model: PreTrainedModel) -> int | None:
    """Return up to how many tokens a sequence is turned as any shorter one is; None where that is any number."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    of_layers = [given] if "rope_type" in given else [own for own in given.values() if isinstance(own, Mapping)]
    limits = [_limit(own, config.max_position_embeddings) for own in of_layers]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(parameters: Mapping[str, Any], positions: int) -> int | None:
    kind = parameters.get("rope_type", "default")
    if kind != "longrope" and "dynamic" not in kind:
        return None
    # At the very length, "dynamic" keeps the angles of a longer sequence before.
    return min(positions, parameters.get("original_max_position_embeddings") or positions) - 1
