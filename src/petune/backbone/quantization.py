"""Keeping the weights of a loaded base as blocks: those of its GGUF file, or rounded to eight or four bits.

The linears and what shares a weight with them become packed; so does a table of embeddings, where a GGUF file has it in
blocks. Norms, biases, heads that an adapter learns and everything else stay as they are.
"""

import logging
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from petune.backbone.gguf_blocks import BlockFormat
from petune.backbone.kept_blocks import kept_blocks
from petune.backbone.packed_weight import PackedWeight, is_packed, stored_bytes, whole
from petune.backbone.quantization_names import QUANTIZATIONS, Quantization
from petune.backbone.rounded_blocks import ROUNDINGS
from petune.backbone.sources import Source, resolve
from petune.backbone.structure import Structure
from petune.errors import BaseModelError, ConfigError, nearest

logger = logging.getLogger("petune")

_HOSTS = (nn.Linear, Conv1D, nn.Embedding)
"""Modules that only multiply with their weight or look rows up in it."""


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """As which blocks a base keeps its weights."""

    quantization: Quantization
    """Whose blocks."""

    source: Source
    """Where the base comes from; a GGUF file if its blocks are kept."""


def kept_as(quantization: Quantization | None, model: str | os.PathLike[str]) -> Kept | None:
    """Return as which blocks the base called ``model`` is to keep its weights; None where they stay plain.

    Raises:
        ConfigError: the base is no GGUF file and its blocks are to be kept.
    """
    if quantization is None:
        return None
    source = resolve(model)
    check_quantization(quantization, source)
    return Kept(quantization, source)


def check_quantization(quantization: str | None, source: Source) -> None:
    """See that a base can be quantised so, before its weights load.

    Raises:
        ConfigError: no such quantisation, or the base is no GGUF file and its blocks are to be kept.
    """
    if quantization is None:
        return
    if quantization not in QUANTIZATIONS:
        raise ConfigError(
            f"quantization {quantization!r} is unknown.{nearest(quantization, QUANTIZATIONS)} Choose from"
            f" {', '.join(QUANTIZATIONS)}, or leave it out"
        )
    if quantization == "gguf" and source.gguf is None:
        raise ConfigError(
            f"quantization gguf keeps the blocks of a .gguf file, and {source.name} is none; choose 8bit or 4bit, which"
            " round its weights, or leave it out"
        )


@torch.no_grad()
def quantize(
    model: PreTrainedModel, quantization: Quantization, source: Source, *, random: Collection[str] = ()
) -> None:
    """Keep the model's weights as blocks from now on.

    Args:
        model: the model, on the CPU.
        quantization: whose blocks.
        source: where the model came from.
        random: names of the parameters that its weight files lack, which an adapter will learn.

    Raises:
        BaseModelError: no weight can be kept so.
        ResourceError: petune's cache cannot take the blocks of the GGUF file.
    """
    before = _size(model)
    count = pack(model, blocks_for(model, Kept(quantization, source), random=random))
    if not count:
        raise BaseModelError(
            f"no weight of {source.name} can be kept as quantization {quantization}: no linear has rows of whole"
            " blocks; leave it out"
        )
    logger.info("%d weights are kept as blocks: %s bytes in place of %s", count, f"{_size(model):,}", f"{before:,}")


def blocks_for(
    model: PreTrainedModel, kept: Kept, *, random: Collection[str] = ()
) -> Iterator[tuple[str, BlockFormat, Tensor]]:
    """Return paths of parameters, with what their blocks are, and the blocks, as :func:`pack` takes them.

    Args:
        model: the model, whose own numbers are rounded unless the blocks of a file are asked for.
        kept: which blocks, and of what.
        random: names of the parameters that its weight files lack, which an adapter will learn.

    Raises:
        BaseModelError: no weight of the GGUF file can be kept so.
        ResourceError: petune's cache cannot take the blocks of the GGUF file.
    """
    if kept.quantization != "gguf":
        return _rounded(model, kept.quantization, random)
    assert kept.source.gguf is not None
    assert kept.source.folder is not None
    return kept_blocks(kept.source.gguf, kept.source.folder)


def weights_size(model: PreTrainedModel, number: int, kept: Kept | None) -> int:
    """Return the bytes of the weights of a model that may be on the meta device.

    Args:
        model: its shapes.
        number: bytes of a number of those that stay plain.
        kept: as which blocks; None for plain weights. Those of a GGUF file take what the file takes.
    """
    plain: int = sum(parameter.numel() for parameter in model.parameters()) * number
    if kept is None:
        return plain
    if kept.quantization in ROUNDINGS:
        form = ROUNDINGS[kept.quantization].form
        numbers: int = sum(weight.numel() for _, weight in _to_round(model, form, ()))
        return plain - numbers * number + numbers // form.values * form.size
    assert kept.source.gguf is not None
    return min(plain, kept.source.gguf.stat().st_size)


def unpack(model: nn.Module, modules: Iterable[nn.Module]) -> dict[nn.Parameter, nn.Parameter]:
    """Put plain parameters in the places of the packed ones of ``modules`` themselves, wherever ``model`` has these.

    Returns:
        The packed parameters by the plain ones.
    """
    found = {id(p): p for module in modules for p in module.parameters(recurse=False) if is_packed(p)}
    plain = {nn.Parameter(whole(parameter), requires_grad=False): parameter for parameter in found.values()}
    for new, old in plain.items():
        _exchange(model, old, new)
    return plain


@contextmanager
def unpacked(model: nn.Module) -> Iterator[None]:
    """Have plain parameters in the places of all packed ones inside the block."""
    plain = unpack(model, model.modules())
    try:
        yield
    finally:
        for new, old in plain.items():
            _exchange(model, new, old)


def _rounded(
    model: PreTrainedModel, quantization: Quantization, random: Collection[str]
) -> Iterator[tuple[str, BlockFormat, Tensor]]:
    rounding = ROUNDINGS[quantization]
    for path, weight in _to_round(model, rounding.form, random):
        yield path, rounding.form, rounding.blocks(weight)


def _to_round(model: PreTrainedModel, form: BlockFormat, random: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    for linear in Structure(model, random).linears:
        weight = model.get_submodule(linear.path).get_parameter("weight")
        if linear.role != "head" and not linear.tied and weight.shape[1] % form.values == 0:
            yield f"{linear.path}.weight", weight


@torch.no_grad()
def pack(model: PreTrainedModel, found: Iterable[tuple[str, BlockFormat, Tensor]]) -> int:
    """Put blocks in the places of the parameters they mean, and return how many there were.

    Args:
        model: the model.
        found: paths of parameters, with what their blocks are, and the blocks.
    """
    count = 0
    for path, form, blocks in found:
        owner = path.rpartition(".")[0]
        try:
            parameter = model.get_parameter(path)
        except AttributeError:
            continue  # of a head that this task has no use for
        if not isinstance(model.get_submodule(owner), _HOSTS):
            continue
        packed = nn.Parameter(PackedWeight(blocks, form, parameter.dtype), requires_grad=False)
        assert packed.shape == parameter.shape
        _exchange(model, parameter, packed)
        count += 1
    return count


def _exchange(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[name] = new


def _size(model: nn.Module) -> int:
    return sum(stored_bytes(parameter) for parameter in model.parameters())
