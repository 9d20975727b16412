"""Parts of a model that are computed in our own way while it trains: norms, gated layers, dropout, rotary embeddings.

Which norms and gated layers are such parts is measured, not looked up: one is taken over if it gives what the formula
gives on random vectors, and any other stays as it is; of modules that are alike, one is measured. Dropout is
PyTorch's own module. Only the function that a module runs is replaced, so its hooks, parameters and names stay, and
taking it back leaves nothing behind. Without gradients there is nothing to keep, and a module runs its own: what is
measured during a training is what is measured after it.

Shapes: d width.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.kernels.dropout import dropout
from petune.kernels.gated_product import ACTIVATIONS, Activation, gated_product
from petune.kernels.rms_norm import rms_norm
from petune.sites.rotation import own_rotation
from petune.sites.routing import Route, Routing

Forward = Callable[..., Any]
Maker = Callable[[nn.Module], Forward]
"""Makes what a module of one kind is to run."""

_SIZES = torch.tensor([[1.0], [4.0], [16.0]])
"""Of inputs: activations that are alike near zero, up to rounding, are not further out."""


@contextmanager
def own_maths(model: PreTrainedModel) -> Iterator[None]:
    """Compute what can be in our own way inside the block; on CPU, where eager PyTorch takes many passes for it."""
    with ExitStack() as undo:
        if model.device.type == "cpu":
            for module, forward in _replacements(model):
                undo.callback(module.__dict__.pop, "forward", None)
                module.forward = _where_gradients(forward, former=module.forward)
            undo.enter_context(own_rotation(model))
        yield


def _where_gradients(forward: Forward, *, former: Forward) -> Forward:
    """Return what runs ``forward`` where gradients are on, and ``former`` elsewhere."""

    def run(*inputs: Any, **options: Any) -> Any:
        return (forward if torch.is_grad_enabled() else former)(*inputs, **options)

    return run


@torch.no_grad()
def _replacements(model: PreTrainedModel) -> list[tuple[nn.Module, Forward]]:
    """Return the modules that can be taken over, and what they are to run."""
    makers: dict[Hashable, Maker | None] = {}
    found: list[tuple[nn.Module, Forward]] = []
    with torch.random.fork_rng([]), Routing.of(model).use(Route.everywhere(())):
        for module in model.modules():
            if "forward" in module.__dict__:  # somebody else's by now
                continue
            kind = _kind(module)
            if kind not in makers:
                torch.manual_seed(0)
                makers[kind] = _as_norm(module) or _as_gated(module) or _as_dropout(module)
            maker = makers[kind]
            if maker is not None:
                found.append((module, maker(module)))
    return found


def _kind(module: nn.Module) -> Hashable:
    """Return what modules have in common that compute alike: class, settings, and the classes of what they hold."""
    settings = tuple(
        (name, value if isinstance(value, int | float | str | None) else id(value))
        for name, value in vars(module).items()
        if not name.startswith("_")
    )
    sizes = tuple((name, None if p is None else p.shape) for name, p in module._parameters.items())
    return type(module), settings, sizes, tuple((name, _kind(child)) for name, child in module.named_children())


def _as_norm(module: nn.Module) -> Maker | None:
    """Return how to compute the root-mean-square norm that ``module`` is, if it is one."""
    own = module._parameters
    weight = own.get("weight")
    if [name for name, _ in module.named_parameters()] != ["weight"] or weight is None or weight.ndim != 1:
        return None
    x = torch.randn(3, len(weight)) * torch.tensor([[1.0], [1e-2], [1e-3]])  # small rows tell one eps from another
    other = torch.randn(len(weight))  # two weights may be one another's double by chance, as ones are
    own["weight"] = nn.Parameter(other, requires_grad=False)
    try:
        given = _attempt(module.forward, x)
    finally:
        own["weight"] = weight
    if given is None or given.dtype != x.dtype:
        return None
    for eps in (value for value in vars(module).values() if isinstance(value, float)):
        for offset in (0.0, 1.0):
            if torch.allclose(given, rms_norm(x, other, eps, offset), rtol=1e-4, atol=1e-6):
                return partial(_norm, eps=eps, offset=offset)
    return None


def _norm(module: nn.Module, *, eps: float, offset: float) -> Forward:
    former = module.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        weight = module.weight
        assert isinstance(weight, Tensor)
        if len(inputs) != 1 or options or inputs[0].dtype != weight.dtype:  # a gate beside x, for one
            return former(*inputs, **options)
        return rms_norm(inputs[0], weight, eps, offset)

    return forward


def _as_gated(module: nn.Module) -> Maker | None:
    """Return how to compute the layer ``down(act(gate(x)) * up(x))`` that ``module`` is, if it is one."""
    names = [name for name, child in module.named_children() if any(True for _ in child.parameters())]
    parts = [module.get_submodule(name) for name in names]
    if len(parts) != 3 or module._parameters or not all(isinstance(part, nn.Linear) for part in parts):
        return None
    fitting: list[Maker] = []
    for order in permutations(names):
        gate, up, down = (module.get_submodule(name) for name in order)
        if gate.in_features != up.in_features or not gate.out_features == up.out_features == down.in_features:
            continue
        x = torch.randn(len(_SIZES), int(gate.in_features)) * _SIZES  # type: ignore[arg-type]
        x = x.to(gate.weight.dtype)  # type: ignore[arg-type]
        given = _attempt(module.forward, x)
        for activation in ACTIVATIONS:
            formula = _attempt(_gated(module, order=order, activation=activation), x)
            if given is not None and formula is not None and torch.equal(given, formula):
                fitting.append(partial(_gated, order=order, activation=activation))
    return fitting[0] if len(fitting) == 1 else None  # weights of zero fit every formula


def _gated(module: nn.Module, *, order: Sequence[str], activation: Activation) -> Forward:
    gate, up, down = (module.get_submodule(name) for name in order)
    former = module.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        if len(inputs) != 1 or options:
            return former(*inputs, **options)
        return down(gated_product(gate(inputs[0]), up(inputs[0]), activation))

    return forward


def _as_dropout(module: nn.Module) -> Maker | None:
    """Return how to drop out as ``module`` does, if it is PyTorch's own dropout."""
    return _dropping if type(module) is nn.Dropout and module.p > 0 and not module.inplace else None


def _dropping(module: nn.Module) -> Forward:
    def forward(x: Tensor) -> Tensor:
        return dropout(x, float(module.p)) if module.training else x  # type: ignore[arg-type]

    return forward


def _attempt(forward: Forward, x: Tensor) -> Tensor | None:
    """Return what ``forward`` makes of ``x``; None where it takes or gives something else."""
    try:
        y = forward(x)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return None
    return y if isinstance(y, Tensor) else None
