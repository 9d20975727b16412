"""The blocks of a GGUF file under the names that the model's parameters have, in the order of their rows.

transformers renames what a GGUF file holds, and puts the rows of queries and keys in another order. Which rows of the
file a parameter's are is found by value, so no table of names has to be kept: every row of an unpacked parameter
equals, bit for bit, what some row of blocks means. A parameter that was reworked beyond that (transposed, cut, scaled)
finds no rows, and stays unpacked.

Shapes: R rows, b bytes of a row of blocks.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from petune.backbone.cache import build_once, cache_folder, need_space
from petune.backbone.digests import weight_files
from petune.backbone.gguf_blocks import GGUF_FORMATS, BlockFormat
from petune.backbone.packed_weight import VALUES_AT_ONCE, PackedWeight
from petune.errors import BaseModelError

_FILE = "blocks.safetensors"


def kept_blocks(gguf: Path, plain: Path) -> Iterator[tuple[str, BlockFormat, Tensor]]:
    """Yield the name of each parameter that can stay packed, what its blocks are, and the blocks [R, b].

    The first time, they are looked for and written to petune's cache.

    Args:
        gguf: the file.
        plain: the folder it was converted to, named by the file's digest.

    Raises:
        BaseModelError: nothing in it can stay packed.
        ResourceError: the cache cannot take the blocks.
    """
    folder = build_once(cache_folder() / "packed" / plain.name, partial(_write, gguf, plain))
    with safe_open(folder / _FILE, framework="pt") as file:
        formats: Mapping[str, str] = file.metadata()
        for name in file.keys():  # noqa: SIM118 - safe_open's own, no mapping
            yield name, GGUF_FORMATS[formats[name]], file.get_tensor(name)


def _write(gguf: Path, plain: Path, folder: Path) -> None:
    reader = GGUFReader(gguf)
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    packed = [t for t in reader.tensors if t.tensor_type.name in GGUF_FORMATS and t.data.ndim == 2]
    need_space(folder, sum(tensor.data.nbytes for tensor in packed), f"keeping the blocks of {gguf.name}")
    waiting = _Parameters(plain)
    blocks: dict[str, Tensor] = {}
    formats: dict[str, str] = {}
    for tensor in packed:
        weight = PackedWeight(
            torch.from_numpy(tensor.data.copy()), GGUF_FORMATS[tensor.tensor_type.name], torch.float32
        )
        for name, order in waiting.made_of(weight):
            blocks[name] = weight.blocks[order]
            formats[name] = weight.form.name
    if not blocks:
        raise BaseModelError(
            f"{gguf} holds {', '.join(kinds)}, and no weight of a kind that can stay packed"
            f" ({', '.join(GGUF_FORMATS)}); use quantization 8bit or 4bit, which round the weights, or leave it out"
        )
    save_file(blocks, folder / _FILE, metadata=formats)


class _Parameters:
    """The matrices of an unpacked model that have not found their blocks.

    Args:
        plain: its folder.
    """

    def __init__(self, plain: Path) -> None:
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._first: dict[str, bytes] = {}
        for path in weight_files(plain):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open's own, no mapping
                    tensor = file.get_slice(name)
                    if len(shape := tuple(tensor.get_shape())) == 2 and shape[0]:
                        self._files[name], self._shapes[name] = path, shape
                        self._first[name] = _digests(tensor[:1])[0]

    def made_of(self, weight: PackedWeight) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters whose rows are all rows of ``weight``, and which of its rows they are [R]."""
        places = {digest: place for place, digest in enumerate(_row_digests(weight))}
        for name in [n for n, shape in self._shapes.items() if shape == weight.shape and self._first[n] in places]:
            with safe_open(self._files[name], framework="pt") as file:
                found = [places.get(digest) for digest in _digests(file.get_tensor(name))]
            if None not in found:
                del self._shapes[name]
                yield name, torch.tensor(found)


def _row_digests(weight: PackedWeight) -> Iterator[bytes]:
    step = max(1, VALUES_AT_ONCE // weight.shape[1])
    for start in range(0, len(weight), step):
        yield from _digests(weight.rows(torch.arange(start, min(start + step, len(weight)))))


def _digests(rows: Tensor) -> list[bytes]:
    """Return a digest of each row; zeros of either sign count as one."""
    numbers: np.ndarray = (rows + 0.0).numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in numbers]
