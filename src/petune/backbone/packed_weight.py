"""A frozen weight that is kept as blocks: to torch a tensor of its full size, in memory a fraction of it.

Products with it (``nn.Linear``, GPT-2's ``Conv1D``) and look-ups in it (``nn.Embedding``) unpack what they need and
keep none of it. Whatever else is computed with it sees the numbers it means, unpacked for that moment. It cannot be
changed; what wants to change a weight makes a plain one of it first (:func:`whole`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from petune.backbone.frozen_product import frozen_product
from petune.backbone.gguf_blocks import BlockFormat

VALUES_AT_ONCE = 1 << 18
"""How many numbers are unpacked at a time on a CPU, so that what is in between stays in its cache."""

_aten = torch.ops.aten
_INDEX_TYPES = (torch.int32, torch.int64)
_SAME_BLOCKS = (_aten.detach.default, _aten.alias.default, _aten.clone.default)


@final
class PackedWeight(Tensor):
    """A weight [rows, width], kept as blocks.

    Args:
        blocks: the blocks of each row, as bytes [rows, width / form.values * form.size].
        form: what they mean.
        dtype: precision of the numbers they are unpacked to.
    """

    blocks: Tensor
    form: BlockFormat

    def __new__(cls, blocks: Tensor, form: BlockFormat, dtype: torch.dtype) -> Self:
        """Make a tensor without numbers of its own, which torch takes for one of the full size."""
        shape = (blocks.shape[0], blocks.shape[1] // form.size * form.values)
        made: Self = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=blocks.device)
        return made

    def __init__(self, blocks: Tensor, form: BlockFormat, dtype: torch.dtype) -> None:
        self.blocks = blocks
        self.form = form

    def dequantize(self) -> Tensor:
        """Return the whole weight as a plain tensor."""
        rows, width = self.shape
        if self.blocks.device.type != "cpu":
            return self._unpacked(self.blocks)
        whole = torch.empty(rows, width, dtype=self.dtype)
        step = max(1, VALUES_AT_ONCE // width)
        for start in range(0, rows, step):
            whole[start : start + step] = self._unpacked(self.blocks[start : start + step])
        return whole

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows [..., width] that ``index`` [...] names, as a plain tensor."""
        return self._unpacked(self.blocks[index.flatten()]).view(*index.shape, self.shape[1])

    def _unpacked(self, blocks: Tensor) -> Tensor:
        return self.form.decode(blocks.reshape(-1, self.form.size)).view(len(blocks), -1).to(self.dtype)

    def _with(self, blocks: Tensor) -> "PackedWeight":
        return PackedWeight(blocks, self.form, self.dtype)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        """Name the format; the numbers are not unpacked for it."""
        return f"PackedWeight({self.form.name}, {tuple(self.shape)}, {self.dtype}, {self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[BlockFormat, torch.dtype]]:
        """Tell torch of the tensor inside."""
        return ["blocks"], (self.form, self.dtype)

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor], context: tuple[BlockFormat, torch.dtype], size: object, stride: object
    ) -> "PackedWeight":
        """Make one of the tensor inside."""
        return PackedWeight(inner["blocks"], *context)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Compute products and look-ups without keeping the whole weight; leave the rest to torch."""
        kwargs = kwargs or {}
        if func is Tensor.__setitem__ and isinstance(args[0], PackedWeight):
            raise _unchangeable()
        with torch._C.DisableTorchFunctionSubclass():
            if func is F.linear and _is_factor(args, 1):
                return frozen_product(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias"))
            if func is torch.addmm and _is_factor(args, 2) and not kwargs:
                return frozen_product(args[1], args[2], args[0], transposed=True)
            if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype in _INDEX_TYPES:
                return args[0].rows(args[1])
            if func is F.embedding and _is_factor(args, 1) and kwargs.get("max_norm") is None:
                return args[1].rows(args[0])
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Keep the blocks where they only move; unpack them for everything else."""
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, PackedWeight):
            if func in _SAME_BLOCKS:
                return first._with(func(first.blocks))
            if func is _aten._to_copy.default and _stays_packed(first, kwargs):
                blocks = first.blocks.to(kwargs.get("device"), non_blocking=kwargs.get("non_blocking", False))
                return PackedWeight(blocks, first.form, kwargs.get("dtype") or first.dtype)
        if func._schema.is_mutable and any(isinstance(value, PackedWeight) for value in _written(func, args, kwargs)):
            raise _unchangeable()
        args, kwargs = tree_map_only(PackedWeight, PackedWeight.dequantize, (args, kwargs))
        return func(*args, **kwargs)


def is_packed(tensor: Tensor) -> bool:
    """Whether ``tensor`` is kept as blocks."""
    return isinstance(tensor, PackedWeight)


def whole(tensor: Tensor) -> Tensor:
    """Return ``tensor``, or the plain tensor it is the packed form of."""
    return tensor.dequantize() if isinstance(tensor, PackedWeight) else tensor


def stored_bytes(tensor: Tensor) -> int:
    """Return how many bytes ``tensor`` takes in memory."""
    return tensor.blocks.nbytes if isinstance(tensor, PackedWeight) else tensor.nbytes


def _is_factor(args: tuple[Any, ...], position: int) -> bool:
    """Whether the weight of a product stands at ``position``, and is its only packed argument."""
    return [isinstance(arg, PackedWeight) for arg in args].count(True) == 1 and isinstance(
        args[position] if len(args) > position else None, PackedWeight
    )


def _stays_packed(weight: PackedWeight, options: Mapping[str, Any]) -> bool:
    """Whether a copy is asked for on another device, or in half the precision, which the blocks unpack to as well."""
    device, dtype = options.get("device") or weight.device, options.get("dtype") or weight.dtype
    halved = weight.dtype == torch.float32 and dtype in (torch.float16, torch.bfloat16)
    return halved or (dtype == weight.dtype and device != weight.device)


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[object]:
    """Yield the arguments that ``func`` writes into."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[place] if place < len(args) else kwargs.get(argument.name)


def _unchangeable() -> RuntimeError:
    return RuntimeError("a packed weight cannot be changed in place; make a plain tensor of it with dequantize()")
