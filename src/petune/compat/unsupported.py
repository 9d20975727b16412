"""Refusing arguments of HF PEFT that petune does not have, by name."""

from typing import Any

from petune.errors import ConfigError


def refuse(where: str, **arguments: Any) -> None:
    """Make sure that none of ``arguments`` is given: neither a value nor a switch that is on.

    Raises:
        ConfigError: one is.
    """
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise ConfigError(f"{where}: {name}={value!r} is not supported by petune; leave it out")
