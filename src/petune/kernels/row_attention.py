"""Attention among the tokens of each row, where rows lie end to end without padding.

On a CUDA device one kernel takes them as they lie, where it can; elsewhere rows of like lengths are padded meanwhile.

Shapes: N tokens of all rows, B rows, b rows of a bucket, T tokens of its longest, H query heads, K key-value heads, D
head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petune.kernels.attention import attend
from petune.kernels.upload import uploaded
from petune.kernels.varlen_attention import attend_in_place, has_varlen

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
class RowLayout:
    """Where each row lies among N tokens, and in what buckets attention goes over them.

    Args:
        lengths: of the rows [B], one behind the other.
        buckets: rows whose attention is padded to one length; each row is in one.
        device: where the tokens lie.

    Attributes:
        positions: position [N] of each token in its row.
        rows: row [N] of each token.
        bounds: where rows begin, and where the last one ends [B + 1], int32.
        longest: tokens of the longest row.
        attended: the attentions that went over it.
    """

    def __init__(self, lengths: Sequence[int], buckets: Sequence[Sequence[int]], device: torch.device) -> None:
        self._sizes = torch.tensor(lengths)
        ends = self._sizes.cumsum(0)
        self._starts = ends - self._sizes
        self._members = buckets
        self._device = device
        rows = torch.arange(len(lengths)).repeat_interleave(self._sizes)
        positions = torch.arange(sum(lengths)) - self._starts[rows]
        self.rows, self.positions = uploaded(rows, device), uploaded(positions, device)
        self.bounds = uploaded(F.pad(ends, (1, 0)).to(torch.int32), device)
        self.longest = max(lengths)
        self.attended: list[nn.Module] = []

    @cached_property
    def padded(self) -> tuple[tuple[_Bucket, ...], Tensor]:
        """The buckets, and where each token [N] stands in the outputs of all of them."""
        places, made, before = torch.empty(int(self._sizes.sum()), dtype=torch.int64), [], 0
        for members in self._members:
            own = torch.tensor(members)
            longest = int(self._sizes[own].max())
            column = torch.arange(longest)
            index = self._starts[own, None] + torch.minimum(column, self._sizes[own, None] - 1)
            is_real = column < self._sizes[own, None]
            places[index[is_real]] = before + torch.arange(index.numel()).view_as(index)[is_real]
            seen = (column <= column[:, None]) & is_real[:, None, :]
            flat, mask = uploaded(index.flatten(), self._device), uploaded(seen[:, None], self._device)
            made.append(_Bucket(flat, len(members), mask))
            before += index.numel()
        return tuple(made), uploaded(places, self._device)


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
    if has_varlen(query, value, options):
        queries, keys, values = (t[:, :, 0] for t in (query, key, value))
        scale = options.get("scaling")
        return attend_in_place(queries, keys, values, layout.bounds, layout.longest, scale)[:, None]
    made = []
    buckets, places = layout.padded
    for bucket in buckets:
        own = [
            t[:, :, 0].index_select(0, bucket.index).view(bucket.rows, -1, *t.shape[1::2]).transpose(1, 2)
            for t in (query, key, value)
        ]
        made.append(attend(module, own[0], own[1], own[2], bucket.mask, **options).flatten(0, 1))
    return torch.cat(made).index_select(0, places)[:, None]
