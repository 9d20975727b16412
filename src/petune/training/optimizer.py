"""AdamW and its schedule for one adapter."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from petune.adapter import Adapter
from petune.errors import ConfigError
from petune.training.options import TrainingOptions


def make_optimizer(adapter: Adapter, options: TrainingOptions) -> AdamW:
    """Return a fused AdamW over the adapter's parameters: one flat group, or one for each rate.

    Rates of ``module_learning_rates`` count as they are; else the method may ask for a multiple of the learning rate.

    Raises:
        ConfigError: a pattern of ``module_learning_rates`` matches nothing, or nothing that is left to it.
    """
    rate = options.learning_rate if options.learning_rate is not None else adapter.method.rate(adapter.config)
    groups: dict[float, list[torch.nn.Parameter]] = {}
    unused = set(options.module_learning_rates or {})
    for path, parameter in adapter.named_masters():
        own, pattern = _rate(path, options.module_learning_rates or {})
        unused.discard(pattern or "")
        usual = rate * adapter.method.rate_factor(adapter.config, path)
        groups.setdefault(usual if own is None else own, []).append(parameter)
    if unused:
        pattern = min(unused)
        if any(fnmatchcase(path, pattern) for path, _ in adapter.named_masters()):
            raise ConfigError(
                f"module_learning_rates: all that '{pattern}' matches, an earlier pattern matches too, and the first"
                " counts; put the narrower one first"
            )
        example = next(iter(adapter.tensors()))
        raise ConfigError(
            f"module_learning_rates: '{pattern}' matches no parameter of the adapter; paths look like '{example}'"
        )
    parameters = [{"params": members, "lr": lr} for lr, members in groups.items()]
    return AdamW(
        parameters,
        lr=rate,
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        weight_decay=options.weight_decay,
        fused=True,
    )


def _rate(path: str, rates: Mapping[str, float]) -> tuple[float | None, str | None]:
    for pattern, rate in rates.items():
        if fnmatchcase(path, pattern):
            return rate, pattern
    return None, None


def make_schedule(optimizer: Optimizer, options: TrainingOptions, total_steps: int) -> LRScheduler:
    """Return the warm-up and decay of the rate over ``total_steps`` optimiser steps."""
    warmup = options.warmup_steps
    if warmup is None:
        warmup = round(options.warmup_ratio * total_steps)
    kind = "constant_with_warmup" if options.lr_scheduler_type == "constant" else options.lr_scheduler_type
    schedule: LRScheduler = get_scheduler(
        kind, optimizer, num_warmup_steps=min(warmup, total_steps), num_training_steps=total_steps
    )
    return schedule


def optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser's state as named tensors: ``<parameter index>.<entry>``."""
    state: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    return {f"{index}.{entry}": value for index, entries in state.items() for entry, value in entries.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Bring back what :func:`optimizer_tensors` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, entry = key.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
