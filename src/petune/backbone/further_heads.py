"""Further heads on one pretrained body, so that one base is there for several tasks.

A further head is that of transformers' class for its task. Its model is built without weights, and the body of the base
takes the place of its own; so what it computes is what transformers computes, and whatever is plugged into the body
acts. Its modules become a child of the base, ``task_<name>``, by which path adapters learn copies of them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from petune.backbone.head_modules import HeadModules
from petune.backbone.heads import auto_class, choose_task, set_labels
from petune.backbone.structure import Structure
from petune.backbone.task_names import NAMED_CLASSES, TaskName
from petune.errors import ConfigError

PREFIX = "task_"
"""What the name of a head's modules in the base begins with."""

_NO_CLASSES = tuple(PreTrainedConfig().id2label.values())


@final
@dataclass(frozen=True, slots=True)
class HeadSpec:
    """A head that is wanted."""

    name: str
    """By which it is asked for; letters, digits, ``_`` and ``-``."""
    task: TaskName
    labels: tuple[str, ...] = ()
    """Names of its classes, in the order of its outputs; empty where the task has none."""


@final
@dataclass(frozen=True, slots=True)
class FurtherHead:
    """A head that a base has beside its own."""

    spec: HeadSpec
    model: PreTrainedModel
    """The base's body with this head, to be called."""
    parameters: int
    """Parameters of a base that is loaded for this task alone, its head not counted."""

    @property
    def path(self) -> str:
        """Where its modules stand in the base."""
        return f"{PREFIX}{self.spec.name}"


def add_heads(
    model: PreTrainedModel, specs: Iterable[HeadSpec], *, seed: int = 42, random: Iterable[str] = ()
) -> dict[str, FurtherHead]:
    """Give a base further heads, which start at random, and return them by name.

    Args:
        model: the base, on its device; on the meta device the heads have shapes and no values.
        specs: the heads.
        seed: source of their values.
        random: names of the base's parameters that its weight files lack.

    Raises:
        ConfigError: a head belongs to another body than the base's.
        BaseModelError: the architecture has no such head.
    """
    found: dict[str, FurtherHead] = {}
    lacking = frozenset(random)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for spec in specs:
            headed = _without_weights(model.config, spec)
            if headed.get_output_embeddings() is not None:
                raise ConfigError(f"the head of '{spec.name}' comes with the weights: load the base for {spec.task}")
            if not _takes_body(headed, model):
                raise ConfigError(
                    f"'{spec.name}' ({spec.task}) needs another body than the base has; {_ways_out(model)}"
                )
            inside = Structure(headed, lacking & {name for name, _ in headed.named_parameters()})
            own = sum(p.numel() for path in inside.head for p in headed.get_submodule(path).parameters())
            head = FurtherHead(spec, headed, sum(p.numel() for p in headed.parameters()) - own)
            found[spec.name] = head
            model.add_module(head.path, _moved(headed, model))
    return found


def choose_own(
    specs: Sequence[HeadSpec], skeleton: Callable[[HeadSpec], PreTrainedModel], saved: TaskName | None = None
) -> int:
    """Return which of several heads a base is to be loaded with, so that its body serves the others too.

    A language-modelling head comes with the weights, so it is that one where there is one. Else it is one that the
    weights were saved with, or the first, where its body serves the others.

    Args:
        specs: the heads.
        skeleton: builds the model of one on the meta device.
        saved: the task that the weights were saved for.

    Raises:
        ConfigError: no body serves them all.
    """
    models = [skeleton(spec) for spec in specs]
    pretrained = [i for i, model in enumerate(models) if model.get_output_embeddings() is not None]
    if len(pretrained) < 2:
        for i in pretrained or sorted(range(len(specs)), key=lambda i: specs[i].task != saved):
            if all(_takes_body(other, models[i]) for other in models if other is not models[i]):
                return i
    heads = ", ".join(f"'{spec.name}' ({spec.task})" for spec in specs)
    raise ConfigError(f"one base cannot carry the heads of {heads}: they need different bodies; {_ways_out(models[0])}")


def _ways_out(model: PreTrainedModel) -> str:
    return f"train them apart, or take another base than a {model.config.model_type}"


def _without_weights(config: PreTrainedConfig, spec: HeadSpec) -> PreTrainedModel:
    own = deepcopy(config)
    choose_task(own, spec.task, str(own.model_type))
    # a base loaded for classes has a configuration that counts them
    set_labels(own, spec.labels if spec.task in NAMED_CLASSES else _NO_CLASSES)
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(spec.task).from_config(own)
    return model.eval().requires_grad_(False)


def _takes_body(headed: PreTrainedModel, base: PreTrainedModel) -> bool:
    """Say whether the body of ``base`` can take the place of that of ``headed``."""
    wanted, body = headed.base_model, base.base_model
    if wanted is headed or body is base or type(wanted) is not type(body):
        return False
    if any(True for _ in headed.parameters(recurse=False)):
        return False  # nothing but modules can be moved
    return _shapes(wanted).items() <= _shapes(body).items()


def _shapes(module: nn.Module) -> Mapping[str, torch.Size]:
    return {name: parameter.shape for name, parameter in module.named_parameters()}


def _moved(headed: PreTrainedModel, base: PreTrainedModel) -> HeadModules:
    """Give ``headed`` the body of ``base``, its head values, and return the head's modules."""
    setattr(headed, headed.base_model_prefix, base.base_model)
    modules = HeadModules()
    for name, child in headed.named_children():
        if child is not base.base_model:
            modules.add_module(name, child)
    if base.device.type != "meta":
        modules.to_empty(device="cpu")  # whose random numbers are the same on every machine
        for part in modules.modules():
            headed._init_weights(part)
        modules.to(device=base.device, dtype=base.dtype)
    return modules.eval().requires_grad_(False)
