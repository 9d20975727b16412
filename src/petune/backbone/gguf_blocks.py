"""The block formats of GGUF files: a few bytes that mean 32 or 256 numbers of one row of a weight.

Every format stores small integers q and what brings them to size: a scale d, perhaps an offset m; a format with 256
numbers in a block (its name ends in K) has them for each sub-block, as small integers times one scale of the block.

    w = d q   or   w = d q + m   or   w = (d s) q - (d' m)

The layouts are those of the ggml library (https://github.com/ggml-org/ggml, ``ggml-common.h``). Numbers are fp16,
little-endian; results are fp32 and rounded in the order above, so they are those of the reference to the last bit.

Shapes: n blocks, b bytes of a block, v numbers it means.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockFormat:
    """How numbers are packed into blocks.

    Attributes:
        name: as GGUF files and their tools write it.
        values: how many numbers a block means.
        size: bytes of a block.
        decode: returns the numbers [n, v] in fp32 of blocks [n, b].
    """

    name: str
    values: int
    size: int
    decode: Callable[[Tensor], Tensor]


def halves(blocks: Tensor, at: int) -> Tensor:
    """Return the fp16 number at byte ``at`` of each block, as fp32 [n, 1]."""
    assert sys.byteorder == "little"
    return blocks.view(torch.float16)[:, at // 2, None].to(torch.float32)


def nibbles(packed: Tensor) -> Tensor:
    """Return the low four bits of all bytes [n, k] and then the high ones, as uint8 [n, 2, k]."""
    return _parts(packed, bits=4).view(torch.uint8)


def _pairs(packed: Tensor) -> Tensor:
    """Return the four two-bit numbers of all bytes [n, k], those of the lowest bits first, as uint8 [n, 4, k]."""
    return _parts(packed, bits=2).view(torch.uint8)


def _parts(packed: Tensor, *, bits: int) -> Tensor:
    """Return the numbers of ``bits`` bits in all bytes [n, k], four bytes to an integer [n, 8 / bits, k / 4].

    Four bytes are cut in one operation; k is a multiple of four.
    """
    words = packed.contiguous().view(torch.int32)
    mask = int.from_bytes(bytes([(1 << bits) - 1] * 4), "little")
    parts = words.new_empty(len(words), 8 // bits, words.shape[1])
    for place in range(8 // bits):
        torch.bitwise_right_shift(words, bits * place, out=parts[:, place])
    return parts.bitwise_and_(mask)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Return 16 for each bit [n, 32] that is set in four bytes [n, 4], the lowest first, and 0 for the others."""
    return _SPREAD.to(packed.device)[packed.long()].view(torch.uint8)


_SPREAD = torch.tensor([sum(16 << 8 * bit for bit in range(8) if byte >> bit & 1) for byte in range(256)])
"""For each byte an integer of eight bytes: 16 where the byte's bit is set, 0 elsewhere."""


def _scaled(q: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    numbers = q.to(torch.float32).mul_(scale)
    return numbers if offset is None else numbers.add_(offset)


def _q4_0(blocks: Tensor) -> Tensor:
    q = nibbles(blocks[:, 2:]).flatten(1).view(torch.int8) - 8
    return _scaled(q, halves(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    return _scaled(nibbles(blocks[:, 4:]).flatten(1), halves(blocks, 0), halves(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    q = nibbles(blocks[:, 6:]).flatten(1) | _fifth_bits(blocks[:, 2:6])
    return _scaled(q.view(torch.int8) - 16, halves(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    q = nibbles(blocks[:, 8:]).flatten(1) | _fifth_bits(blocks[:, 4:8])
    return _scaled(q, halves(blocks, 0), halves(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    return _scaled(blocks[:, 2:].view(torch.int8), halves(blocks, 0))


def _q2_k(blocks: Tensor) -> Tensor:
    sizes, d, d_min = blocks[:, :16], halves(blocks, 80), halves(blocks, 82)
    # each half of the block is 32 bytes, whose lowest bits are its first 32 numbers
    q = _pairs(blocks[:, 16:80].reshape(-1, 32)).view(-1, 16, 16)
    scales, offsets = d * (sizes & 15), d_min * (sizes >> 4)
    return _scaled(q, scales[..., None]).sub_(offsets[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    low, high = nibbles(blocks[:, 96:104]).flatten(1), _pairs(blocks[:, 104:108]).flatten(1)
    scales = halves(blocks, 108) * ((low | high << 4).view(torch.int8) - 32)
    third = _parts(blocks[:, :32], bits=1)  # of number 32 i + j it is bit i of byte j
    q = _parts(blocks[:, 32:96].reshape(-1, 32), bits=2).view(-1, 8, 8) | third << 2
    return _scaled((q.view(torch.int8) - 4).view(-1, 16, 16), scales[..., None]).flatten(1)


def _eight_sizes(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales and the offsets [n, 8] of a block's sub-blocks, six bits each, from 12 bytes."""
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = torch.cat((a & 63, c & 15 | a >> 6 << 4), 1)
    offsets = torch.cat((b & 63, c >> 4 | b >> 6 << 4), 1)
    return scales, offsets


def _with_sub_blocks(blocks: Tensor, q: Tensor) -> Tensor:
    scales, offsets = _eight_sizes(blocks[:, 4:16])
    scales, offsets = halves(blocks, 0) * scales, halves(blocks, 2) * offsets
    return _scaled(q, scales[..., None]).sub_(offsets[..., None]).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    return _with_sub_blocks(blocks, nibbles(blocks[:, 16:].reshape(-1, 32)).view(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    fifth = _parts(blocks[:, 16:48], bits=1)  # of number 32 i + j it is bit i of byte j
    q = _parts(blocks[:, 48:].reshape(-1, 32), bits=4).view(-1, 8, 8) | fifth << 4
    return _with_sub_blocks(blocks, q.view(torch.uint8))


def _q6_k(blocks: Tensor) -> Tensor:
    # of each half, 64 bytes hold the low four bits of 128 numbers, and 32 bytes their high two
    low = _parts(blocks[:, :128].reshape(-1, 64), bits=4).view(-1, 4, 8)
    high = _parts(blocks[:, 128:192].reshape(-1, 32), bits=2)
    q = (low | high << 4).view(torch.int8) - 32
    scales = halves(blocks, 208) * blocks[:, 192:208].view(torch.int8)
    return _scaled(q.view(-1, 16, 16), scales[..., None]).flatten(1)


GGUF_FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {
        form.name: form
        for form in (
            BlockFormat("Q2_K", 256, 84, _q2_k),
            BlockFormat("Q3_K", 256, 110, _q3_k),
            BlockFormat("Q4_0", 32, 18, _q4_0),
            BlockFormat("Q4_1", 32, 20, _q4_1),
            BlockFormat("Q4_K", 256, 144, _q4_k),
            BlockFormat("Q5_0", 32, 22, _q5_0),
            BlockFormat("Q5_1", 32, 24, _q5_1),
            BlockFormat("Q5_K", 256, 176, _q5_k),
            BlockFormat("Q6_K", 256, 210, _q6_k),
            BlockFormat("Q8_0", 32, 34, _q8_0),
        )
    }
)
"""The formats that weights may stay packed in, by name."""
