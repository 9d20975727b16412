"""The registry of methods: one line each. A method's module is imported when it is first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from petune.errors import ConfigError, nearest

if TYPE_CHECKING:
    from petune.methods.method import Method

REGISTRY = {
    "bitfit": "petune.methods.bitfit:BitFit",
    "bottleneck": "petune.methods.bottleneck:Bottleneck",
    "full": "petune.methods.full:FullFineTuning",
    "hard_prompts": "petune.methods.hard_prompts:HardPrompts",
    "ia3": "petune.methods.ia3:IA3",
    "llama_adapter": "petune.methods.llama_adapter:LlamaAdapter",
    "lora": "petune.methods.lora:LoRA",
    "p_tuning": "petune.methods.p_tuning:PTuning",
    "p_tuning_v2": "petune.methods.p_tuning_v2:PTuningV2",
    "prefix_tuning": "petune.methods.prefix_tuning:PrefixTuning",
    "prompt_tuning": "petune.methods.prompt_tuning:PromptTuning",
}


def names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(sorted(REGISTRY))


def get(name: str) -> "Method[Any]":
    """Return the method called ``name``.

    Raises:
        ConfigError: there is no such method.
    """
    if name not in REGISTRY:
        raise ConfigError(f"unknown method '{name}'; the methods are {', '.join(names())}.{nearest(name, REGISTRY)}")
    module, _, attribute = REGISTRY[name].partition(":")
    method: Method[Any] = getattr(import_module(module), attribute)()
    return method
