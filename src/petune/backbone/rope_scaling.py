"""Rotary embeddings that turn by other angles in a long sequence than in a short one."""

from collections.abc import Mapping

from transformers import PreTrainedModel


def unscaled_length(model: PreTrainedModel) -> int | None:
    """Return up to how many tokens a sequence is turned as any shorter one is; None where that is any number."""
    return min((limit for _, limit in _limits(model)), default=None)


def turned_as(model: PreTrainedModel, length: int) -> int:
    """Return the length of the shortest sequence that is turned as one of ``length`` tokens; 0 where any short one is.

    "longrope" tells short sequences from long ones alone; "dynamic" goes on to change with the length.
    """
    exceeded = ((kind, limit) for kind, limit in _limits(model) if length > limit)
    return max((limit + 1 if kind == "longrope" else length for kind, limit in exceeded), default=0)


def _limits(model: PreTrainedModel) -> list[tuple[str, int]]:
    """Return the kinds of rotary embedding that depend on the length, and up to how many tokens each is the same."""
    config = model.config.get_text_config()
    given = getattr(config, "rope_parameters", None) or {}
    of_layers = [given] if "rope_type" in given else [own for own in given.values() if isinstance(own, Mapping)]
    found = []
    for own in of_layers:
        kind = own.get("rope_type", "default")
        if kind == "longrope" or "dynamic" in kind:
            most = config.max_position_embeddings
            limit = min(most, own.get("original_max_position_embeddings") or most)
            # At the very length, "dynamic" keeps the angles of a longer sequence before.
            found.append((kind, limit if kind == "longrope" else limit - 1))
    return found
