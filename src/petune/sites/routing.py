"""Which adapters each row of a batch goes through: decided once, read by every site.

Beside it stands what else a site has to know: where each row's answer begins, and where the tokens of a pass do.

Shapes: R rows named by the caller, T tokens of each, N entries of a tensor that a site sees, along the axis of its
rows. N is a multiple of R wherever the model repeats rows (beam search) or flattens positions into rows
(``[R * T, d]``): in both, the entries of one row stay together, so one index serves.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from petune.kernels.upload import uploaded

Stack = tuple[str, ...]
"""The adapters one row goes through, in order; empty for the untouched base."""

Runs = tuple[tuple[int, int, int], ...]
"""Rows by group, as runs of rows that follow one another: the group, the first row, and the one behind the last."""


def stacks_of(rows: Sequence[str | Sequence[str] | None]) -> list[Stack]:
    """Return the stack of each row, named as an adapter, as several in order, or as None."""
    return [() if row is None else (row,) if isinstance(row, str) else tuple(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share a stack. ``rows`` is their index [G], or None for every row of the batch."""

    stack: Stack
    rows: Tensor | None
    _entries: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict, compare=False, repr=False)

    def index(self, num_rows: int, num_entries: int, device: torch.device) -> Tensor | None:
        """Return the index [G * N/R] of this group's entries among ``num_entries``, or None for all of them."""
        if self.rows is None:
            return None
        assert num_entries % num_rows == 0, f"{num_entries} entries cannot belong to {num_rows} rows"
        key = (num_entries // num_rows, device)
        if key not in self._entries:  # one for all layers
            with torch.inference_mode(mode=False):  # autograd may need it later
                self._entries[key] = _entries(uploaded(self.rows, device), key[0])
        return self._entries[key]


def _entries(rows: Tensor, repeat: int) -> Tensor:
    """Return the index of the entries of ``rows``, ``repeat`` of each."""
    if repeat == 1:
        return rows
    return (rows[:, None] * repeat + torch.arange(repeat, device=rows.device)).flatten()


@dataclass(frozen=True, slots=True)
class Reading:
    """The tokens of a pass whose last hidden states are read, in the manner of a batch of rows of one token."""

    places: Tensor
    """Index [N] of the tokens, among those of all rows [R * T]."""

    size: tuple[int, int]
    """R and T."""

    route: "Route"
    """Where each of the N tokens goes."""


@dataclass(frozen=True, slots=True)
class Route:
    """The grouping of one batch; built once per batch, not once per layer."""

    groups: tuple[Group, ...]
    num_rows: int = 0

    virtual_tokens: bool = True
    """Whether rows have virtual tokens, at the attentions or among their own; not where somebody lays them there."""

    reads: Reading | None = None
    """Which tokens of the pass are read behind the last block; None for all."""

    _assigned: dict[tuple[int, ...], tuple[Group, Runs]] = field(default_factory=dict, compare=False)

    def assigned(self, numbers: tuple[int, ...], num_entries: int, device: torch.device) -> tuple[Tensor | None, Runs]:
        """Return the index of the entries of several groups (None: all), in the rows' order, and whose each row is.

        Args:
            numbers: which groups; none of them has all rows.
            num_entries: entries N, along the axis of its rows, of the tensor that a site sees.
            device: where it lies.

        Returns:
            The index [G * N/R] or None, and the runs of the groups' rows [G], each group by its place in ``numbers``.
        """
        if numbers not in self._assigned:
            owners = {r: place for place, n in enumerate(numbers) for r in self.groups[n].rows.tolist()}  # type: ignore[union-attr]
            rows = sorted(owners)
            with torch.inference_mode(mode=False):  # autograd may need the index later
                together = Group((), None if len(rows) == self.num_rows else torch.tensor(rows))
            self._assigned[numbers] = (together, _runs([owners[row] for row in rows]))
        together, runs = self._assigned[numbers]
        return together.index(self.num_rows, num_entries, device), runs

    def of_rows(self, rows: Sequence[int]) -> "Route":
        """Return the route of a batch of some of the rows, in this order."""
        stacks = {int(row): g.stack for g in self.groups if g.rows is not None for row in g.rows}
        return replace(Route.of([stacks[row] for row in rows]), virtual_tokens=self.virtual_tokens) if stacks else self

    def of_entries(self, rows: Tensor) -> "Route":
        """Return the route of entries [N] that stand in these ``rows`` [N], however many of each."""
        if not self.num_rows or not len(rows):
            return self
        members = [(g.stack, torch.isin(rows.cpu(), g.rows)) for g in self.groups if g.rows is not None]
        groups = tuple(Group(stack, own.nonzero()[:, 0]) for stack, own in members)
        return Route(groups, len(rows), self.virtual_tokens)

    @staticmethod
    def everywhere(stack: Stack, *, virtual_tokens: bool = True) -> "Route":
        """Every row of any batch goes through ``stack``."""
        return Route((Group(stack, None),), virtual_tokens=virtual_tokens)

    @staticmethod
    def of(rows: Sequence[Stack]) -> "Route":
        """Row i goes through ``rows[i]``."""
        members: dict[Stack, list[int]] = {}
        for i, stack in enumerate(rows):
            members.setdefault(stack, []).append(i)
        if len(members) == 1:
            return Route.everywhere(rows[0])
        return Route(tuple(Group(s, torch.tensor(i)) for s, i in members.items()), len(rows))


def _runs(places: Sequence[int]) -> Runs:
    """Return ``places`` as runs of the same."""
    runs, start = [], 0
    for place, members in groupby(places):
        end = start + sum(1 for _ in members)
        runs.append((place, start, end))
        start = end
    return tuple(runs)


@dataclass(slots=True)
class Routing:
    """The route in force for one model. Sites read it at every call, so nothing stays behind after an error."""

    _active: Route = field(default_factory=lambda: Route.everywhere(()))
    _answers: Tensor | None = None

    first_place: int = 0
    """Index of the first token that the running pass reads; those before it are in the cache."""

    @staticmethod
    def of(model: nn.Module) -> "Routing":
        """Return the one routing of ``model``."""
        return _ROUTINGS.setdefault(model, Routing())

    @property
    def route(self) -> Route:
        """The grouping that the sites apply now."""
        return self._active

    def answers(self, device: torch.device) -> Tensor | None:
        """Return the index [R], on ``device``, of the first token of each row's answer; None where nobody said.

        Tokens in the cache count.
        """
        if self._answers is not None:
            self._answers = uploaded(self._answers, device)  # once, for all layers
        return self._answers

    def set_default(self, stack: Stack) -> None:
        """Send every row through ``stack`` until told otherwise."""
        self._active = Route.everywhere(stack)

    @contextmanager
    def use(self, route: Route) -> Iterator[None]:
        """Apply ``route`` inside the block, a backward pass in it included; the former one returns afterwards."""
        before = self._active
        self._active = route
        try:
            yield
        finally:
            self._active = before

    def without_virtual_tokens(self) -> AbstractContextManager[None]:
        """Apply the route in force inside the block, but leave virtual tokens away."""
        return self.use(replace(self._active, virtual_tokens=False))

    @contextmanager
    def answers_from(self, starts: Sequence[int]) -> Iterator[None]:
        """Say inside the block at which index each row's answer begins; a backward pass belongs inside as well."""
        before = self._answers
        self._answers = torch.tensor(starts)
        try:
            yield
        finally:
            self._answers = before


_ROUTINGS: "WeakKeyDictionary[nn.Module, Routing]" = WeakKeyDictionary()
