"""Along which axis the rows of a batch lie where a sub-module is called: measured on one pass, not looked up.

Mostly it is the first. A few models have tokens there and rows behind them: FSMT and XLNet in all blocks, Longformer
and LED where they make queries, keys and values. Two equal rows of an odd number of tokens go through the bare model:
what a sub-module gives is the same in both halves of the axis that the rows lie along.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from petune.backbone.arguments import without_cache
from petune.backbone.structure import body_of
from petune.sites.routing import Route, Routing

MEASURED_TOKENS = 3

_FOUND: WeakKeyDictionary[PreTrainedModel, frozenset[str]] = WeakKeyDictionary()


def rows_second(model: PreTrainedModel) -> frozenset[str]:
    """Return the paths of the sub-modules of ``model`` that have the rows along their second axis.

    One that the pass does not come by, such as a projection for tokens seen by all, has what those beside it have.
    There are none where the model cannot be run on a few tokens.
    """
    found = _FOUND.get(model)
    if found is None:
        found = _FOUND[model] = _measured(model)
    return found


@torch.no_grad()
def _measured(model: PreTrainedModel) -> frozenset[str]:
    body, axes = body_of(model), dict[str, int]()
    inside = {module for module in body.modules() if module is not body}
    paths = [path for path, module in model.named_modules() if module in inside]
    ids = torch.arange(MEASURED_TOKENS, device=model.device).expand(2, -1)
    tokens = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with Routing.of(model).use(Route.everywhere(())), evaluating(model), ExitStack() as hooks:
        for path in paths:
            hooks.callback(model.get_submodule(path).register_forward_hook(partial(_note, axes, path)).remove)
        try:
            body(**tokens, **without_cache(body))
        except Exception:  # whatever else a model may want to be told
            return frozenset()
    turned = {_parent(path) for path, axis in axes.items() if axis == 1}
    return frozenset(path for path in paths if axes.get(path, int(_parent(path) in turned)) == 1)


def _note(axes: dict[str, int], path: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Note along which axis of what a sub-module gives the two rows lie, where it is of more rows than one."""
    if isinstance(output, Tensor) and len(output) > 1 and path not in axes:
        apart = [_apart(output, axis) for axis in range(min(2, output.ndim - 1))]
        axes[path] = apart.index(min(apart)) if apart else 0


def _apart(output: Tensor, axis: int) -> float:
    """Return how far the halves of ``axis`` lie apart; infinity where it has none."""
    if output.shape[axis] % 2:
        return float("inf")
    first, second = output.float().chunk(2, axis)
    return float((first - second).abs().sum())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have nothing dropped inside the block."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
