"""The flags by which commands choose a base model and an adapter."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from petune.errors import ConfigError

if TYPE_CHECKING:
    from petune.adapter import AdaptedModel


class LoadOptions(BaseModel):
    """Which model a command uses."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    adapter: str | None = None
    """Adapter folder, petune's or HF PEFT's."""

    model: str | None = None
    """Base model: a hub id, a local folder, a .gguf file, or `demo` (default: the one the adapter names)."""

    revision: str | None = None
    """Branch, tag or commit of a hub id."""

    dtype: str = "auto"
    """Precision of the base: bfloat16, float16, float32, or auto (bfloat16 where the machine computes it fast)."""

    device: str = "auto"
    """Where to run: cpu, cuda, or auto."""

    allow_base_mismatch: bool = False
    """Use the adapter even on a base it was not made for."""

    trust_remote_code: bool = False
    """Let the base's repository run its own code."""


def load_model(flags: Mapping[str, Any]) -> "AdaptedModel":
    """Return the model that the flags name.

    Raises:
        ConfigError: neither an adapter nor a base is named.
    """
    from petune.api import load

    options = LoadOptions.model_validate(flags)
    if options.adapter is None and options.model is None:
        raise ConfigError("no model: give --adapter FOLDER, --model NAME (such as --model demo), or both")
    return load(
        options.adapter,
        base=options.model,
        dtype=options.dtype,
        device=options.device,
        revision=options.revision,
        allow_base_mismatch=options.allow_base_mismatch,
        trust_remote_code=options.trust_remote_code,
    )


def split(given: Mapping[str, Any], *models: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the flags that were given, one mapping for each of ``models``; the first that knows a flag has it."""
    from petune.cli.flags import values

    flags = values(given, *models)
    return [{name: flags.pop(name) for name in list(flags) if name in model.model_fields} for model in models]
