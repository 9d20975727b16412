"""Attention among the tokens of each row, where rows lie end to end without padding.

Shapes: N tokens of all rows, B rows, b rows of a bucket, T tokens of its longest, H query heads, K key-value heads, D
head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from petune.kernels.attention import attend

ROW_LAYOUT = "row_layout"
"""The argument of a model, handed on to its attentions, that says where rows lie."""

UNDERSTOOD = {"dropout", "scaling", "is_causal", "sliding_window", "position_ids", "use_cache", "softcap"}
"""What a model may say to its attention that holds for rows end to end as well."""


class NotByRowError(ValueError):
    """An attention asks for more than to look back over its row."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Rows of like lengths, for the time of one attention padded to the longest of them."""

    index: Tensor
    """Which token stands at each place [b * T]; behind a row's end its last one again, so that rows meet nowhere."""
    rows: int
    mask: Tensor
    """What each token sees [b, 1, T, T]."""


@final
@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where each row lies among N tokens, and in what buckets attention goes over them."""

    buckets: tuple[_Bucket, ...]
    places: Tensor
    """Where each token [N] stands in the outputs of all buckets."""
    positions: Tensor
    """Position [N] of each token in its row."""
    rows: Tensor
    """Row [N] of each token."""
    attended: list[nn.Module] = field(default_factory=list)
    """The attentions that went over it."""

    @classmethod
    def of(cls, lengths: Sequence[int], buckets: Sequence[Sequence[int]], device: torch.device) -> Self:
        """Return the layout of rows of these lengths [B], one behind the other; each is in one of ``buckets``."""
        sizes = torch.tensor(lengths)
        starts = sizes.cumsum(0) - sizes
        rows = torch.arange(len(lengths)).repeat_interleave(sizes)
        positions = torch.arange(int(sizes.sum())) - starts[rows]
        places, made, before = torch.empty_like(rows), [], 0
        for members in buckets:
            own = torch.tensor(members)
            longest = int(sizes[own].max())
            column = torch.arange(longest)
            index = starts[own, None] + torch.minimum(column, sizes[own, None] - 1)
            is_real = column < sizes[own, None]
            places[index[is_real]] = before + torch.arange(index.numel()).view_as(index)[is_real]
            seen = (column <= column[:, None]) & is_real[:, None, :]
            made.append(_Bucket(index.flatten().to(device), len(members), seen[:, None].to(device)))
            before += index.numel()
        return cls(tuple(made), places.to(device), positions.to(device), rows.to(device))


def attend_by_row(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, layout: RowLayout, **options: Any
) -> Tensor:
    """Return the output [N, 1, H, D] of a causal attention ``module`` in which each token sees its own row.

    Args:
        module: the module that is running.
        query: [N, H, 1, D].
        key: [N, K, 1, D].
        value: [N, K, 1, D].
        layout: where the rows lie.
        options: what the model says to its attention function.

    Raises:
        NotByRowError: it says more than what holds for rows end to end.
    """
    if not (options.keys() <= UNDERSTOOD and options.get("sliding_window") is None):
        raise NotByRowError(f"{type(module).__name__} is told {', '.join(options)}")
    layout.attended.append(module)
    made = []
    for bucket in layout.buckets:
        own = [
            t[:, :, 0].index_select(0, bucket.index).view(bucket.rows, -1, *t.shape[1::2]).transpose(1, 2)
            for t in (query, key, value)
        ]
        made.append(attend(module, own[0], own[1], own[2], bucket.mask, **options).flatten(0, 1))
    return torch.cat(made).index_select(0, layout.places)[:, None]
