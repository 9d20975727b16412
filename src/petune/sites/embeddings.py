"""The embedding site: virtual tokens among the tokens of a row, at any position.

A row that an adapter's virtual tokens belong to holds, in their places, token ids beyond the vocabulary. Hooks around
the input embeddings look a harmless id up instead and put the adapter's embeddings over what was found. So labels,
masks, positions, padding, K/V caches and beams are those of ordinary tokens.

Shapes: B rows, T tokens, P virtual tokens, V vocabulary, d hidden width.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from petune.backbone.structure import body_of
from petune.errors import BaseModelError, DataError
from petune.sites.attention import KeysValues, Reader, Source
from petune.sites.routing import Routing, Stack

_STATES = ("cache_params", "state")
"""What models without attention call what they keep of the tokens before."""

_HOW = "write rows with petune.generate, evaluate or predict, or put them in with AdaptedModel.insert_virtual_tokens"


class EmbeddingSource(Source, ABC):
    """A source of virtual tokens: their embeddings, wherever they stand."""

    @abstractmethod
    def embeddings(self) -> Tensor:
        """Return the embeddings [P, d], as the input embeddings would give them."""

    def forward(self, read: Reader) -> Mapping[str, KeysValues]:
        """Return the keys and values that the base makes of the virtual tokens in front of everything."""
        return read(self.embeddings())


@final
class EmbeddingSlot(nn.Module):
    """Virtual tokens of an adapter that stand among the tokens of a row; its source has their embeddings.

    Args:
        per_row: virtual tokens in one row.
    """

    def __init__(self, per_row: int) -> None:
        super().__init__()
        self.per_row = per_row


def input_embeddings(model: PreTrainedModel) -> nn.Module:
    """Return the module that looks the input's tokens up: in an encoder-decoder, the encoder's."""
    module: nn.Module = _reader(model).get_input_embeddings()
    return module


@torch.no_grad()
def token_embeddings(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return what the bare base makes of token ids [P] before its first block: vectors [P, d] in its precision.

    They are those of its table times the factor that some embeddings multiply them by (Gemma, BART).
    """
    # not called: adapters plug hooks in there
    found: Tensor = input_embeddings(model).forward(ids.to(_table(model).device))
    return found


def reader_path(model: PreTrainedModel) -> str:
    """Return the path of the part of ``model`` that is called with the input's tokens: where virtual tokens plug in.

    It is not that of the embeddings, which may have rows or a copy of their own beside.
    """
    paths: dict[nn.Module, str] = {module: path for path, module in model.named_modules()}
    return paths[body_of(_reader(model))]


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return V, the number of the model's input embeddings: ids from there on are virtual tokens."""
    return _table(model).shape[0]


def embedding_width(model: PreTrainedModel) -> int:
    """Return d, the width of the model's input embeddings; also where they are on the meta device."""
    return _table(model).shape[1]


def _table(model: PreTrainedModel) -> Tensor:
    weight = input_embeddings(model).weight
    assert isinstance(weight, Tensor)
    return weight


def _reader(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part of ``model`` that is called with the input's tokens.

    Raises:
        BaseModelError: its encoder is a plain module, as in FSMT, of which is not known how it looks tokens up.
    """
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    if not isinstance(reader, PreTrainedModel):
        raise BaseModelError(
            f"the encoder of {type(model).__name__} is no model of its own (a {type(reader).__name__}), so virtual"
            " tokens cannot stand in its input; choose a method that changes layers: petune methods lists them"
        )
    return reader


@final
class EmbeddingSite:
    """All virtual tokens that adapters have plugged into the input embeddings of one model.

    Args:
        model: the base.
        routing: which adapters each row goes through.
        headed: models that call the body of the base with other heads.
    """

    def __init__(self, model: PreTrainedModel, routing: Routing, headed: Sequence[PreTrainedModel] = ()) -> None:
        self._model = model
        self._called = (model, *headed)
        self._routing = routing
        self._slots: dict[str, tuple[EmbeddingSlot, EmbeddingSource]] = {}
        self._handles: list[RemovableHandle] = []
        self._places: Tensor | None = None
        self._virtual: Tensor | None = None
        self._rows_second = False

    def tell_axes(self, rows_second: Collection[nn.Module]) -> None:
        """Be told which modules of the model have the rows along their second axis."""
        self._rows_second = bool(self._slots) and input_embeddings(self._model) in rows_second

    def plug(self, name: str, slot: EmbeddingSlot, source: EmbeddingSource) -> None:
        """Let rows of adapter ``name`` hold virtual tokens with the embeddings of ``source``."""
        self._slots[name] = (slot, source)
        if not self._handles:
            module = input_embeddings(self._model)
            readers = dict.fromkeys(map(_reader, self._called))
            self._handles = [
                *(reader.register_forward_pre_hook(self._check, with_kwargs=True) for reader in readers),
                # First before, last after what else is plugged into the embeddings, which sees an ordinary token.
                module.register_forward_pre_hook(self._hide, prepend=True),
                module.register_forward_hook(self._fill),
                *(other.register_forward_pre_hook(self._without_virtual) for other in self._other_tables(module)),
            ]

    def unplug(self, name: str) -> None:
        """Remove the virtual tokens of adapter ``name``; with the last ones the hooks go too."""
        self._slots.pop(name, None)
        if not self._slots:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def _own(self, stack: Stack) -> list[tuple[EmbeddingSlot, EmbeddingSource]]:
        return [self._slots[name] for name in stack if name in self._slots]

    def _check(self, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make sure that rows hold the virtual tokens of their adapters, all of them.

        Raises:
            DataError: a row does not.
        """
        route = self._routing.route
        wanted = [sum(slot.per_row for slot, _ in self._own(group.stack)) for group in route.groups]
        cache = kwargs.get("past_key_values")
        if not any(wanted) or not route.virtual_tokens or (cache is not None and int(cache.get_seq_length()) > 0):
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise DataError(f"the adapter's virtual tokens stand among token ids, and embeddings were given; {_HOW}")
        if ids.shape[1] == 1 and any(kwargs.get(name) is not None for name in _STATES):
            return  # what is in a state is not told, but it is gone on with token by token
        found = (ids >= vocabulary_size(self._model)).sum(-1)
        for group, expected in zip(route.groups, wanted, strict=True):
            index = group.index(route.num_rows, len(ids), ids.device)
            counts = (found if index is None else found[index]).tolist()
            wrong = next((count for count in counts if count != expected), None)
            if wrong is not None:
                names = ", ".join(group.stack) or "the bare base"
                raise DataError(f"a row for {names} holds {wrong} virtual tokens, expected {expected}; {_HOW}")

    def _other_tables(self, own: nn.Module) -> list[nn.Module]:
        """Return what may look the same tokens up behind the input embeddings: the tables of their class."""
        return [module for module in self._model.modules() if type(module) is type(own) and module is not own]

    def _without_virtual(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Look an ordinary token up in place of virtual ones, where the table is given tokens and not positions."""
        if self._virtual is None or not _equal(args[0], self._virtual):
            return args
        return (args[0].masked_fill(args[0] >= vocabulary_size(self._model), 0), *args[1:])

    def _hide(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Look an ordinary token up in place of virtual ones, and note which [B, T] stood where."""
        places = args[0] - vocabulary_size(self._model)
        found = bool((places >= 0).any())
        self._places, self._virtual = (places, args[0]) if found else (None, None)
        return (args[0].masked_fill(places >= 0, 0), *args[1:]) if found else None

    def _fill(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Put the virtual tokens' embeddings over what was looked up in their places."""
        places, self._places = self._places, None
        if places is None:
            return output
        if self._rows_second:
            return self._with_virtual(places.t(), output.transpose(0, 1)).transpose(0, 1)
        return self._with_virtual(places, output)

    def _with_virtual(self, places: Tensor, output: Tensor) -> Tensor:
        """Return ``output`` [B, T, d] with the virtual tokens' embeddings in their ``places`` [B, T]."""
        route = self._routing.route
        for group in route.groups:
            index = group.index(route.num_rows, len(places), places.device)
            own = places if index is None else places[index]
            tables = [source.embeddings().to(output) for _, source in self._own(group.stack)]
            known = sum(len(table) for table in tables)
            if int(own.max()) >= known:
                names = ", ".join(group.stack) or "the bare base"
                raise DataError(f"a row for {names} holds virtual tokens of another adapter; {_HOW}")
            if not tables:
                continue
            if index is None:
                output = _filled(output, own, torch.cat(tables))
            else:
                output = output.index_copy(0, index, _filled(output[index], own, torch.cat(tables)))
        return output


def _equal(ids: Tensor, others: Tensor) -> bool:
    return ids is others or (ids.shape == others.shape and bool((ids == others.to(ids.device)).all()))


def _filled(output: Tensor, places: Tensor, table: Tensor) -> Tensor:
    """Return ``output`` [B, T, d] with row k of ``table`` [P, d] where ``places`` [B, T] is k >= 0."""
    return torch.where((places >= 0)[..., None], table[places.clamp(min=0)], output)
