"""Refusing arguments of HF PEFT that petune does not have, by name."""

from collections.abc import Mapping
from typing import Any

from petune.errors import ConfigError

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "autocast_adapter_dtype": (True,),  # an adapter's tensors are fp32, whatever the base's precision
    "max_shard_size": (None, "50GB"),  # what transformers passes where nobody said anything
    "safe_serialization": (True,),
    "save_embedding_layers": (False, "auto"),
}
"""Values that ask for nothing, where they are others than None and False."""


def refuse(where: str, **arguments: Any) -> None:
    """Make sure that none of ``arguments`` asks for anything.

    Raises:
        ConfigError: one does.
    """
    for name, value in arguments.items():
        neutral = _NEUTRAL.get(name, (None, False))
        if not any(value is ok or (isinstance(ok, str) and value == ok) for ok in neutral):
            raise ConfigError(f"{where}: {name}={value!r} is not supported by petune; leave it out")
