"""Attention among the tokens of each row, where rows lie end to end without padding.

On a CUDA device one kernel takes them as they lie, where it can; elsewhere rows of like lengths are padded meanwhile.

A row may stand in front of others, and one in front of that: they see it as what they begin with, and it sees none of
them.

Shapes: N tokens of all rows, B rows, b rows of a bucket, T tokens of its longest, F tokens of the longest in front of
them, H query heads, K key-value heads, D head width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    keys: Tensor
    """Which tokens it is shown [b * (F + T)], seen or not."""
    rows: int
    mask: Tensor
    """What each token sees [b, 1, T, F + T]."""


_Padded = tuple[tuple[_Bucket, ...], Tensor]


@final
class RowLayout:
    """Where each row lies among N tokens, and in what buckets attention goes over them.

    Args:
        lengths: of the rows [B], one behind the other.
        buckets: rows whose attention is padded to one length; each row is in one.
        device: where the tokens lie.
        fronts: by row, the one that stands in front of it, which comes earlier.

    Attributes:
        positions: position [N] of each token in its row, behind what stands in front of it.
        rows: row [N] of each token.
        bounds: where rows begin, and where the last one ends [B + 1], int32.
        longest: tokens of the longest row.
        reach: the most tokens of a row and of what stands in front of it.
        window: the smallest window that an attention has told of, while ``attended`` is noted.
        fronts: by row, the one in front of it.
        has_fronts: whether there are any; a graph that asked ``fronts`` itself would hold for these rows alone.
        attended: where the attentions that go over it are noted, while somebody wants to know; graphs that blocks share
            note nothing.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        buckets: Sequence[Sequence[int]],
        device: torch.device,
        fronts: Mapping[int, int] | None = None,
    ) -> None:
        self.fronts = dict(fronts or {})
        self.has_fronts = bool(self.fronts)
        self._sizes = torch.tensor(lengths)
        ends = self._sizes.cumsum(0)
        self._starts = ends - self._sizes
        before: list[int] = []
        for row in range(len(lengths)):
            front = self.fronts.get(row)
            before.append(0 if front is None else before[front] + lengths[front])
        self._before = torch.tensor(before)
        self._members = buckets
        self._device = device
        rows = torch.arange(len(lengths)).repeat_interleave(self._sizes)
        positions = torch.arange(sum(lengths)) - (self._starts - self._before)[rows]
        self.rows, self.positions = uploaded(rows, device), uploaded(positions, device)
        self.bounds = uploaded(F.pad(ends, (1, 0)).to(torch.int32), device)
        self.longest = max(lengths)
        self.reach = max(length + ahead for length, ahead in zip(lengths, before, strict=True))
        self.window: int | None = None
        self.attended: list[nn.Module] | None = None
        self._padded: _Padded | None = None

    def padded(self) -> _Padded:
        """Return the buckets, and where each token [N] stands in the outputs of all of them; made at the first call."""
        if self._padded is None:
            self._padded = self._pad()
        return self._padded

    def _pad(self) -> _Padded:
        places, made, before = torch.empty(int(self._sizes.sum()), dtype=torch.int64), [], 0
        ahead = self._ahead()
        for members in self._members:
            own = torch.tensor(members)
            longest = int(self._sizes[own].max())
            column = torch.arange(longest)
            index = self._starts[own, None] + torch.minimum(column, self._sizes[own, None] - 1)
            is_real = column < self._sizes[own, None]
            places[index[is_real]] = before + torch.arange(index.numel()).view_as(index)[is_real]
            seen = (column <= column[:, None]) & is_real[:, None, :]
            front, is_front = self._front_of(members, ahead)
            mask = torch.cat([is_front[:, None, :].expand(-1, longest, -1), seen], 2)[:, None]
            parts = (index.flatten(), torch.cat([front, index], 1).flatten(), mask)
            queries, keys, mask = (uploaded(tensor, self._device) for tensor in parts)
            made.append(_Bucket(queries, keys, len(members), mask))
            before += index.numel()
        return tuple(made), uploaded(places, self._device)

    def _ahead(self) -> dict[int, Tensor]:
        """Return, for each row that stands in front of some, which tokens those see before their own."""
        ahead: dict[int, Tensor] = {}
        for front in sorted(set(self.fronts.values())):
            own = self._starts[front] + torch.arange(int(self._sizes[front]))
            ahead[front] = torch.cat([ahead[self.fronts[front]], own]) if front in self.fronts else own
        return ahead

    def _front_of(self, members: Sequence[int], ahead: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Return which tokens are shown in front of rows [b, F], and which of them are; others are the row's own."""
        own = torch.tensor(members)
        is_real = torch.arange(int(self._before[own].max())) < self._before[own, None]
        index = self._starts[own, None].expand(is_real.shape).clone()
        if index.numel():
            index[is_real] = torch.cat([ahead[self.fronts[row]] for row in members if row in self.fronts])
        return index, is_real


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
        NotByRowError: it says more than what holds for rows end to end, or looks back over less than a row.
    """
    if not options.keys() <= UNDERSTOOD:
        raise NotByRowError(f"{type(module).__name__} is told {', '.join(options)}")
    window = options.get("sliding_window")
    if window is not None and layout.reach > window:
        raise NotByRowError(
            f"{type(module).__name__} looks back over {window} tokens, and a row has {layout.reach}; pad such rows"
        )
    if layout.attended is not None:
        layout.attended.append(module)
        layout.window = min((w for w in (layout.window, window) if w is not None), default=None)
    if not layout.has_fronts and has_varlen(query, value, options):
        queries, keys, values = (t[:, :, 0] for t in (query, key, value))
        scale = options.get("scaling")
        return attend_in_place(queries, keys, values, layout.bounds, layout.longest, scale)[:, None]
    made = []
    buckets, places = layout.padded()
    for bucket in buckets:
        queries, keys, values = (
            tensor[:, :, 0].index_select(0, index).view(bucket.rows, -1, *tensor.shape[1::2]).transpose(1, 2)
            for tensor, index in ((query, bucket.index), (key, bucket.keys), (value, bucket.keys))
        )
        made.append(attend(module, queries, keys, values, bucket.mask, **options).flatten(0, 1))
    return torch.cat(made).index_select(0, places)[:, None]
