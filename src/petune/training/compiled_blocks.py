"""Transformer blocks compiled by ``torch.compile`` while a base trains.

Blocks that are alike share their graphs, whatever is plugged into them, and a graph serves batches of any size. Only
passes that learn are compiled: evaluation, the reading of virtual tokens and counted passes run as they always do.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import PreTrainedModel

from petune.backbone.structure import Structure
from petune.errors import ConfigError, ResourceError
from petune.kernels.row_attention import ROW_LAYOUT
from petune.sites.last_block import last_feed_forward
from petune.sites.replaced import replaced
from petune.sites.routing import Routing

BACKEND = "inductor"
"""What torch.compile uses where nothing else is asked for."""


def require_compiler(device: torch.device, quantization: str | None) -> None:
    """Check that the blocks of a base on ``device`` can be compiled.

    Args:
        device: where it lies.
        quantization: which blocks its weights are kept as; None for none.

    Raises:
        ConfigError: the weights are quantised.
        ResourceError: what compiling needs on this device is missing.
    """
    if quantization is not None:
        raise ConfigError(
            f"quantization is {quantization}, and torch_compile takes plain weights; leave out one of the two"
        )
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise ResourceError("--torch-compile needs triton on a GPU: pip install triton, or leave it out")
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise ResourceError(
            f"--torch-compile needs a C++ compiler, and there is no {compiler}: install one (apt-get install g++,"
            " xcode-select --install), name yours in the environment variable CXX, or leave --torch-compile out"
        )


@contextmanager
def compiled_blocks(model: PreTrainedModel, structure: Structure, *, backend: str = BACKEND) -> Iterator[None]:
    """Run the blocks of ``model`` compiled inside the block, where gradients are wanted; afterwards it is as it was.

    Args:
        model: the base.
        structure: its blocks.
        backend: what compiles, as torch.compile names it.
    """
    routing = Routing.of(model)
    few_at = structure.blocks[-1] if last_feed_forward(model, structure) is not None else None
    with ExitStack() as undo:
        for path in structure.blocks:
            block = model.get_submodule(path)
            compiled = _compiled(block.forward, routing, backend, may_be_of_few=path == few_at)
            undo.enter_context(replaced(block, {"forward": compiled}))
        yield


def _compiled(
    forward: Callable[..., Any], routing: Routing, backend: str, *, may_be_of_few: bool
) -> Callable[..., Any]:
    fast = torch.compile(forward, dynamic=True, backend=backend)

    def call(*args: Any, **kwargs: Any) -> Any:
        # A pass over virtual tokens alone notes keys, which no graph does; a dispatch mode has compilation given up.
        of_rows = routing.route.virtual_tokens or ROW_LAYOUT in kwargs
        learns = torch.is_grad_enabled() and of_rows and _get_current_dispatch_mode() is None
        # Of a block that computes most of itself for few tokens, little is left to gain by a graph of its own.
        is_of_few = may_be_of_few and routing.route.reads is not None
        return (fast if learns and not is_of_few else forward)(*args, **kwargs)

    return call
