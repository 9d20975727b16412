"""Extra keys and values of a batch whose rows have different ones, as tensors over the whole batch.

Shapes: B rows, G rows of a group, P virtual tokens, K key-value heads, D head width (values may have another).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from petune.kernels.upload import uploaded


@dataclass(frozen=True, slots=True)
class Part:
    """Keys and values [1, K, P, D] for some rows [G] (None: all), and which of them [P] only the answer may see."""

    rows: Tensor | None
    keys: Tensor
    values: Tensor
    answer_only: list[bool]

    @property
    def is_partly_hidden(self) -> bool:
        """Whether any of it is for the answer only."""
        return any(self.answer_only)


def side_by_side(parts: list[Part], key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and values [B, K, P, D] of rows with different prefixes, right-aligned, and which [B, P] are real."""
    visible = flags_of([[True] * len(part.answer_only) for part in parts], parts, key)
    if parts[0].rows is None:
        keys, values = (t.expand(key.shape[0], -1, -1, -1) for t in (parts[0].keys, parts[0].values))
        return keys, values, visible
    rows, longest = visible.shape
    own_key, own_value = (t.new_zeros(rows, t.shape[1], longest, t.shape[3]) for t in (parts[0].keys, parts[0].values))
    for part in parts:
        assert part.rows is not None, "a group of all rows is the only group"
        for own, given in ((own_key, part.keys), (own_value, part.values)):
            filled = F.pad(given, (0, 0, longest - given.shape[2], 0))
            own.index_copy_(0, part.rows, filled.expand(len(part.rows), -1, -1, -1))
    return own_key, own_value, visible


def flags_of(flags: list[list[bool]], parts: list[Part], key: Tensor) -> Tensor:
    """Return flags of each part's virtual tokens as [B, P], right-aligned; false where a row has fewer of them."""
    longest = max(len(own) for own in flags)
    table = torch.zeros(key.shape[0], longest, dtype=torch.bool, device=key.device)
    for own, part in zip(flags, parts, strict=True):
        rows = slice(None) if part.rows is None else part.rows
        table[rows, longest - len(own) :] = own[0] if len(set(own)) == 1 else uploaded(torch.tensor(own), key.device)
    return table
