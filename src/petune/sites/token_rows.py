"""Rows of the embeddings and of the head that an adapter learns for chosen tokens; all other tokens keep theirs.

Shapes: n chosen tokens, V of the vocabulary, d hidden width.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from petune.errors import ConfigError
from petune.sites.host import Host
from petune.sites.output import OutputSlot

TokenIndices = Mapping[str, Sequence[int]]


@final
class TokenRows(OutputSlot):
    """Rows of one table: of the embeddings, or of the head over the vocabulary.

    Args:
        indices: ids of the tokens.
        start: their rows [n, d] at the start; copied to fp32.
        tied_to: the rows of the embeddings, where the head shares them and so has none of its own.
    """

    indices: Tensor
    _order: Tensor

    def __init__(self, indices: Sequence[int], start: Tensor, *, tied_to: "TokenRows | None" = None) -> None:
        super().__init__()
        own = torch.tensor(list(indices), dtype=torch.int64)
        self.register_buffer("indices", own, persistent=False)
        self.register_buffer("_order", own.argsort(), persistent=False)
        start = start[own.to(start.device)].detach()
        self.rows = nn.Parameter(start.to(torch.float32, copy=True)) if tied_to is None else None
        self._tied_to = () if tied_to is None else (tied_to,)  # a tuple keeps it out of this slot's own parameters
        self._host: Host | None = None

    @property
    def tied_to(self) -> "TokenRows | None":
        """The slot whose rows these are."""
        return next(iter(self._tied_to), None)

    @property
    def values(self) -> Tensor:
        """The rows [n, d]."""
        rows = self.rows if self.tied_to is None else self.tied_to.rows
        assert rows is not None
        return rows

    def meet(self, host: Host) -> None:
        """Remember the table.

        Raises:
            ConfigError: it has fewer rows than the tokens' ids need.
        """
        rows = host.module.get_parameter("weight").shape[0]
        if int(self.indices.max()) >= rows:
            raise ConfigError(
                f"the adapter has rows for tokens up to {int(self.indices.max())}, this base ends at {rows - 1}: its"
                " vocabulary lacks the new tokens the adapter was made with"
            )
        self._host = host

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y with the learned rows: looked up by ids ``x``, or multiplied with hidden states ``x``."""
        assert self._host is not None
        if isinstance(self._host.module, nn.Embedding):
            place = torch.searchsorted(self.indices, x.contiguous(), sorter=self._order)
            place = self._order[place.clamp(max=len(self.indices) - 1)]
            found = F.embedding(place, self.values.to(y.dtype)) * getattr(self._host.module, "embed_scale", 1.0)
            return torch.where((self.indices[place] == x)[..., None], found, y)
        # As a difference, so that rows which are still the base's own change nothing, to the last bit.
        change = self.values - self._host.weight[self.indices].to(torch.float32)
        return y.index_add(-1, self.indices, F.linear(x, change.to(x.dtype)).to(y.dtype))

    def merged_parameters(self, host: nn.Module) -> Mapping[str, Tensor]:
        """Return the table with these rows; nothing where another slot brings them."""
        if self.tied_to is not None:
            return {}
        weight = host.get_parameter("weight").detach()
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
        return {"weight": wide.index_copy_(0, self.indices, self.values.detach().to(wide.dtype))}


def with_tokens(model: PreTrainedModel, wanted: Sequence[int] | TokenIndices, ids: Sequence[int]) -> TokenIndices:
    """Return ``wanted`` with the tokens ``ids`` in every table of ``model``, by path; shared weights count once."""
    named = _by_path(model, wanted) if wanted else {}
    return {
        first: tuple(sorted({*ids, *chain.from_iterable(named.get(path, ()) for path in (first, *others))}))
        for first, others in _tables(model).items()
    }


def token_rows(
    model: PreTrainedModel, wanted: Sequence[int] | TokenIndices, *, whole: Collection[str] = ()
) -> dict[str, TokenRows]:
    """Return the slots that learn rows of chosen tokens, by the path of the table.

    Args:
        model: the base; its weights may be on the meta device.
        wanted: ids of tokens, for the embeddings; or ids by the path of a table or its end. What shares the weight of
            the embeddings (a head, a decoder's embeddings) has the rows of these.
        whole: paths of modules that are learned whole. Tables in them have no rows besides, and what shared these has
            rows of its own.

    Raises:
        ConfigError: a table is no embedding or head of this base, or has no such token.
    """
    named = _by_path(model, wanted)
    shared = {p: first for first, others in _tables(model).items() if first in named for p in (first, *others)}
    slots: dict[str, TokenRows] = {}
    owners: dict[str, TokenRows] = {}
    for path, indices in ({p: named[first] for p, first in shared.items()} | named).items():
        if any(f"{path}.".startswith(f"{learned}.") for learned in whole):
            continue
        weight = model.get_submodule(path).get_parameter("weight")
        if not indices or min(indices) < 0 or max(indices) >= weight.shape[0] or len(set(indices)) < len(indices):
            raise ConfigError(
                f"trainable_token_indices: '{path}' has tokens 0 to {weight.shape[0] - 1}, each to be named once; got"
                f" {list(indices)}"
            )
        first = shared.get(path, path)
        start = torch.zeros(weight.shape) if weight.is_meta and first not in owners else weight
        slots[path] = TokenRows(indices, start, tied_to=owners.get(first))
        owners.setdefault(first, slots[path])
    return slots


def _tables(model: PreTrainedModel) -> dict[str, list[str]]:
    """Return the paths of the embeddings and of the head, each with those of the modules that share its weight."""
    paths = {id(module): path for path, module in model.named_modules()}
    tables: dict[str, list[str]] = {}
    seen: list[nn.Parameter] = []
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        weight = None if table is None else table.get_parameter("weight")
        if table is None or weight is None or any(weight is other for other in seen):
            continue
        seen.append(weight)
        sharing = [m for m in model.modules() if m is not table and m._parameters.get("weight") is weight]
        tables[paths[id(table)]] = [paths[id(module)] for module in sharing]
    return tables


def _by_path(model: PreTrainedModel, wanted: Sequence[int] | TokenIndices) -> dict[str, Sequence[int]]:
    """Return the tokens of each table, by its whole path; a list is meant for the embeddings.

    Raises:
        ConfigError: a name means no table, or one table has two lists.
    """
    tables = _tables(model)
    if not isinstance(wanted, Mapping):
        return {next(iter(tables)): wanted}
    paths = [path for first, others in tables.items() for path in (first, *others)]
    found: dict[str, Sequence[int]] = {}
    for name, indices in wanted.items():
        path = next((path for path in paths if f".{path}".endswith(f".{name}")), None)
        if path is None:
            raise ConfigError(f"trainable_token_indices: '{name}' is no table of tokens; they are {', '.join(paths)}")
        found[path] = indices
    for first, others in tables.items():
        for path in others if first in found else ():
            if path in found and list(found[path]) != list(found[first]):
                raise ConfigError(
                    f"trainable_token_indices: '{path}' and '{first}' are one table, so they have one list of tokens"
                )
    return found
