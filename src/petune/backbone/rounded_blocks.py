"""Weights rounded to blocks of eight or four bits a number, for bases that do not come in blocks.

Eight bits: GGUF's Q8_0, whole multiples of a 127th of the largest number among 32.

Four bits: the 4-bit NormalFloat of Dettmers, Pagnoni, Holtzman, Zettlemoyer: "QLoRA: Efficient Finetuning of Quantized
LLMs" (2023), https://arxiv.org/abs/2305.14314, appendix E: sixteen levels such that normally distributed numbers fall
on each equally often, times the largest number among 64. The scales stay fp32; the paper's second quantisation, of
the scales, is left out.

Shapes: n blocks, v numbers of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from petune.backbone.gguf_blocks import GGUF_FORMATS, BlockFormat, nibbles

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The levels of appendix E."""


def _nf4(blocks: Tensor) -> Tensor:
    scales = blocks[:, :4].contiguous().view(torch.float32)
    levels = torch.tensor(NF4_LEVELS, device=blocks.device)
    return levels[nibbles(blocks[:, 4:]).flatten(1).int()].mul_(scales)


NF4 = BlockFormat("NF4", 64, 36, _nf4)


def to_q8_0(numbers: Tensor) -> Tensor:
    """Return the blocks [n, 34] of fp32 numbers [n, 32]."""
    scales = numbers.abs().amax(1, keepdim=True) / 127
    exact = numbers * torch.where(scales == 0, 0.0, 1 / scales)
    q = (exact.abs() + 0.5).floor() * exact.sign()  # halves away from zero, as ggml rounds
    return torch.cat((scales.to(torch.float16).view(torch.uint8), q.to(torch.int8).view(torch.uint8)), 1)


def to_nf4(numbers: Tensor) -> Tensor:
    """Return the blocks [n, 36] of fp32 numbers [n, 64]."""
    scales = numbers.abs().amax(1, keepdim=True)
    exact = numbers * torch.where(scales == 0, 0.0, 1 / scales)
    levels = torch.tensor(NF4_LEVELS, device=numbers.device)
    q = torch.bucketize(exact, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    return torch.cat((scales.view(torch.uint8), q[:, :32] | q[:, 32:] << 4), 1)


@dataclass(frozen=True)
class Rounding:
    """A way to round weights.

    Attributes:
        form: the blocks that come of it.
        encode: returns the blocks of fp32 numbers [n, v].
    """

    form: BlockFormat
    encode: Callable[[Tensor], Tensor]

    def blocks(self, weight: Tensor) -> Tensor:
        """Return the blocks of each row of ``weight``, whose width is a multiple of v."""
        numbers = weight.detach().to(torch.float32).reshape(-1, self.form.values)
        return self.encode(numbers).view(len(weight), -1)


ROUNDINGS: Mapping[str, Rounding] = MappingProxyType(
    {"8bit": Rounding(GGUF_FORMATS["Q8_0"], to_q8_0), "4bit": Rounding(NF4, to_nf4)}
)
"""The ways to round, by the names that settings use."""
