"""A sub-module of the base replaced by an adapter's own copy: heads, embeddings or norms that are learned whole.

A copy starts as the sub-module is, so nothing changes at first. It is an output slot that looks at the input alone, so
rows of one batch may go through different copies or through the base's own module. Where the base shares a weight
between modules (a head tied to the embeddings), the copy shares nothing: it is learned apart.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from petune.backbone.structure import Structure
from petune.errors import ConfigError, TargetError, nearest
from petune.sites.output import OutputSlot


@final
class Replacement(OutputSlot):
    """An adapter's own copy of one sub-module, used in its place.

    Args:
        module: the sub-module at its start; its parameters are copied to fp32.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # The copy must not take along what is plugged into the original, nor what hangs on those hooks.
        hooks = [h for part in module.modules() for h in (part._forward_hooks, part._forward_pre_hooks)]
        self.own = copy.deepcopy(module, {id(hook): OrderedDict() for hook in hooks})
        masters: dict[int, nn.Parameter] = {}
        for part in self.own.modules():
            for name, own in part._parameters.items():
                if own is not None:
                    master = nn.Parameter(own.detach().to(torch.float32, copy=True))
                    part._parameters[name] = masters.setdefault(id(own), master)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the copy's output for ``x``, in the precision of ``y``."""
        parameters = {name: parameter.to(y.dtype) for name, parameter in self.own.named_parameters()}
        output: Tensor = functional_call(self.own, parameters, (x,))
        return output

    def merged_bias(self, bias: Tensor) -> Tensor:
        """Return the copy's bias."""
        return self.own.get_parameter("bias").detach()

    def merged_parameters(self, host: nn.Module) -> Mapping[str, Tensor]:
        """Return the copy's parameters."""
        return {name: parameter.detach() for name, parameter in self.own.named_parameters()}


def matching(model: nn.Module, name: str) -> tuple[str, ...]:
    """Return the paths of the sub-modules that are called ``name``, or whose path ends with ``.name``."""
    return tuple(path for path, _ in model.named_modules() if path and f".{path}".endswith(f".{name}"))


def replacements(model: nn.Module, structure: Structure, names: Sequence[str]) -> dict[str, Replacement]:
    """Return copies of the sub-modules that ``names`` mean, by path.

    Args:
        model: the base; its weights may be on the meta device.
        structure: what is known of it.
        names: paths or their ends: ``lm_head``, ``model.norm``.

    Raises:
        TargetError: a name matches nothing.
        ConfigError: a sub-module cannot be copied: it has no parameters, has state besides them, or holds attention.
    """
    chosen: dict[str, nn.Module] = {}
    for name in names:
        found = matching(model, name)
        if not found:
            leaves = list(dict.fromkeys(path.rpartition(".")[2] for path, _ in model.named_modules() if path))
            raise TargetError(
                f"modules_to_save: '{name}' matches no module of this base.{nearest(name, leaves)} Names are module"
                f" paths or their ends; it has {', '.join(leaf for leaf in leaves if not leaf.isdigit())}"
            )
        chosen |= {path: model.get_submodule(path) for path in found}
    for path, module in chosen.items():
        _check(path, module, structure, chosen)
    return {path: Replacement(module) for path, module in chosen.items()}


def _check(path: str, module: nn.Module, structure: Structure, chosen: Mapping[str, nn.Module]) -> None:
    attentions = (*structure.blocks, *(attention.path for attention in structure.attentions))
    outer = next((other for other in chosen if path.startswith(f"{other}.")), None)
    if outer is not None:
        problem = f"lies inside '{outer}', which is named too; name one of them"
    elif isinstance(module, nn.ModuleList | nn.ModuleDict) or any(f"{a}.".startswith(f"{path}.") for a in attentions):
        problem = "is more than one layer; name the linears, norms or heads inside"
    elif next(module.parameters(), None) is None:
        problem = "has no parameters to learn"
    elif (state := module.state_dict().keys() - dict(module.named_parameters()).keys()) or any(
        not parameter.is_floating_point() for parameter in module.parameters()
    ):
        problem = f"holds more than floating-point parameters ({', '.join(sorted(state)) or 'quantised weights'})"
    else:
        return
    raise ConfigError(f"modules_to_save: '{path}' {problem}")
