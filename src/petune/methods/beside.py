"""What any method may learn beside its own: whole modules, the head of a task, rows of chosen tokens."""

from collections.abc import Mapping
from typing import Any

from petune.errors import ConfigError
from petune.methods.config import MethodConfig
from petune.methods.method import Method, Target
from petune.sites.replacement import replacements
from petune.sites.sites import Slot
from petune.sites.token_rows import token_rows
from petune.sites.weights import WeightSlot


def with_besides(
    method: Method[Any], config: MethodConfig, target: Target, slots: Mapping[str, Slot]
) -> dict[str, Slot]:
    """Return the method's slots with what is learned beside it: whole modules, the head of a task, rows of tokens.

    Args:
        method: the method.
        config: its settings.
        target: the base.
        slots: what the method itself learns, by path.

    Raises:
        ConfigError: the method cannot have something beside it, or adapts what has rows of its own.
        TargetError: a module is named that the base does not have.
    """
    _refuse_besides(method, config)
    if not method.shares_batch:
        return {**slots, **_weights_of_head(target, slots)}
    whole = replacements(target.model, target.structure, (*config.modules_to_save, *target.structure.head))
    wanted = config.trainable_token_indices
    rows = token_rows(target.model, wanted, whole=whole.keys()) if wanted else {}
    # What is learned whole is not adapted besides, as in HF PEFT.
    left = {path: s for path, s in slots.items() if not any(f"{path}.".startswith(f"{copied}.") for copied in whole)}
    twice = next((path for path in left if path in rows), None)
    if twice is not None:
        raise ConfigError(
            f"'{twice}' is adapted by {method.title} and has rows of its own for some tokens; leave it out of what is"
            " adapted, or learn it whole with modules_to_save"
        )
    return {**left, **rows, **whole}


def _refuse_besides(method: Method[Any], config: MethodConfig) -> None:
    for setting in ("modules_to_save", "trainable_token_indices", "new_tokens"):
        if getattr(config, setting) and not method.trains:
            raise ConfigError(f"{setting}: {method.title} trains nothing, and this would have to be; leave it out")
        if getattr(config, setting) and not method.shares_batch and setting != "new_tokens":
            raise ConfigError(
                f"{setting}: {method.title} learns the base's own parameters, so copies would hide them; leave it out"
            )


def _weights_of_head(target: Target, slots: Mapping[str, Slot]) -> dict[str, Slot]:
    head = tuple(f"{path}." for path in target.structure.head)
    parameters = target.model.named_parameters()
    return {path: WeightSlot(p) for path, p in parameters if path.startswith(head) and path not in slots}
