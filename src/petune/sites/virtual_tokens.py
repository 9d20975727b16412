"""Virtual tokens in front of the input: their keys and values, computed once a pass, and the positions they take.

Rotary embeddings that depend on the length turn them as the sequences that they stand in front of.

Shapes: B rows, T tokens, P virtual tokens, d hidden width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from petune.backbone.arguments import by_name, takes
from petune.backbone.positions import cached_tokens, default_positions, position_limit, positions_without_padding
from petune.backbone.rope_scaling import turned_as, unscaled_length
from petune.backbone.structure import body_of
from petune.errors import DataError
from petune.kernels.constant_weights import once
from petune.sites.attention import AttentionSites, AttentionSlot, KeysValues, Source, SourcedSlot
from petune.sites.routing import Route, Routing, Stack


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """What a source gave, and the parameters and the length it gave it for."""

    parameters: list[Tensor]
    length: int
    values: Mapping[str, KeysValues]

    def is_of(self, source: Source) -> bool:
        # Compared by value: fused optimisers change parameters without counting it as a new version.
        pairs = zip(source.parameters(), self.parameters, strict=True)
        return all(p.device == kept.device and torch.equal(p, kept) for p, kept in pairs)


@final
class VirtualTokens:
    """What has to happen before each forward pass for the attention slots that are plugged in.

    Real tokens move behind the virtual ones where the model takes position ids. Where it does not (relative positions,
    as in T5; BART, which counts by itself) they keep the positions they have without. An encoder-decoder's pass begins
    with its encoder, which generation calls by itself.

    Args:
        model: the base.
        routing: which adapters each row goes through.
        attention: the attention sites of the base.
        headed: models that call the body of the base with other heads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        routing: Routing,
        attention: AttentionSites,
        headed: Sequence[PreTrainedModel] = (),
    ) -> None:
        self._model = model
        self._routing = routing
        self._attention = attention
        self._slots: dict[str, dict[str, AttentionSlot]] = {}
        self._sources: dict[str, Source] = {}
        self._changing: set[str] = set()
        self._kept: dict[str, _Kept] = {}
        self._called = (model, *headed)
        self._unscaled_length: int | None = None
        self._handles: list[RemovableHandle] = []

    def plug(self, name: str, slots: Mapping[str, AttentionSlot], source: Source | None, *, changes_base: bool) -> None:
        """Prepare passes for adapter ``name``, which has ``slots`` at the attentions.

        Args:
            name: the adapter.
            slots: its slots by path.
            source: what computes their values.
            changes_base: whether the adapter also changes what the base makes of the source.
        """
        self._slots[name] = dict(slots)
        if source is not None:
            self._sources[name] = source
        if changes_base:
            self._changing.add(name)
        if not self._handles:
            self._unscaled_length = unscaled_length(self._model)
            called = dict.fromkeys(_takes_positions(model) for model in self._called)
            encoders = dict.fromkeys(m.get_encoder() for m in called if m.config.is_encoder_decoder)
            self._handles = [
                *(model.register_forward_pre_hook(self._before_forward, with_kwargs=True) for model in called),
                *(encoder.register_forward_pre_hook(self._before_reading, with_kwargs=True) for encoder in encoders),
            ]

    def unplug(self, name: str) -> None:
        """Stop preparing passes for adapter ``name``."""
        self._slots.pop(name, None)
        self._sources.pop(name, None)
        self._changing.discard(name)
        self.forget()
        if not self._slots:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    def forget(self) -> None:
        """Forget keys and values kept from earlier passes; call it when weights of the base change."""
        self._kept.clear()

    def _before_forward(
        self, model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Do what a pass begins with, unless the model's encoder is called first, which does."""
        if not model.config.is_encoder_decoder:
            return self._before_reading(model, args, kwargs)
        if by_name(model, args, kwargs).get("encoder_outputs") is not None:
            self._compute(self._routing.route, 0)
        return None

    def _before_reading(
        self, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Note where the tokens stand, compute what sources give, and move the positions behind virtual tokens."""
        route = self._routing.route
        call = by_name(reader, args, kwargs)
        shifts = [self._shift(group.stack) for group in route.groups] if route.virtual_tokens else []
        moves = any(shifts) and all(takes(m, "position_ids") for m in (_takes_positions(self._model), reader))
        positions = self._positions(route, shifts, call) if moves else None
        self._compute(route, self._turned_as(positions))
        self._routing.first_place = cached_tokens(call)  # a source may have had the base read something else
        return None if positions is None else ((), {**call, "position_ids": positions})

    def _compute(self, route: Route, length: int) -> None:
        """Compute what the route's sources give in a sequence that is turned as one of ``length`` tokens."""
        if route.virtual_tokens:
            for name in {name for group in route.groups for name in group.stack if name in self._sources}:
                self._prepare(name, [group.stack for group in route.groups if name in group.stack], length)

    def _shift(self, stack: Stack) -> int:
        shifts = ([slot.position_shift for slot in self._slots[n].values()] for n in stack if n in self._slots)
        return sum(max(shift, default=0) for shift in shifts)

    def _turned_as(self, positions: Tensor | None) -> int:
        """Return the length that rotary embeddings turn tokens at ``positions`` [B, T] by; 0 where any short one is."""
        if positions is None or self._unscaled_length is None:
            return 0
        return turned_as(self._model, int(positions.max()) + 1)

    def _prepare(self, name: str, stacks: list[Stack], length: int) -> None:
        """Give the slots of adapter ``name`` their keys and values for each of ``stacks``."""
        slots = self._slots[name]
        values = {stack: self._values(name, stack, length) for stack in stacks}
        for path, slot in slots.items():
            assert isinstance(slot, SourcedSlot)
            slot.current = {stack: values[stack][path] for stack in stacks}

    def _values(self, name: str, stack: Stack, length: int) -> Mapping[str, KeysValues]:
        """Return what the source of ``name`` gives; without autograd it is kept until a parameter or length changes."""
        source = self._sources[name]
        keep = not torch.is_grad_enabled() and not source.training and stack == (name,) and name not in self._changing
        kept = self._kept.get(name) if keep else None
        if kept is not None and kept.length == length:
            same = once(tuple(source.parameters()), kept, lambda: kept.is_of(source))
            if kept.is_of(source) if same is None else same:
                return kept.values
        values: Mapping[str, KeysValues] = source(lambda embeddings: self._read(name, stack, embeddings, length))
        if keep:
            self._kept[name] = _Kept([p.detach().clone() for p in source.parameters()], length, values)
        return values

    def _read(self, name: str, stack: Stack, embeddings: Tensor, length: int) -> Mapping[str, KeysValues]:
        """Return the keys and values that the base makes of ``embeddings`` [P, d] at the adapter's attentions."""
        with self._routing.use(Route.everywhere(stack, virtual_tokens=False)):
            return self._attention.read(tuple(self._slots[name]), embeddings.to(self._model.dtype), length=length)

    def _positions(self, route: Route, shifts: list[int], call: Mapping[str, Any]) -> Tensor:
        """Return position ids [B, T] moved by each row's shift.

        Where the call gives none, padding takes none in rows with virtual tokens: these stand in front of the first
        real token, so a row alone and a padded one are the same. Other rows have the positions of the bare model.

        Raises:
            DataError: tokens and virtual tokens together are more than the model has positions.
        """
        given = call.get("position_ids")
        own = default_positions(self._model, call) if given is None else given
        ids = call.get("input_ids")
        rows, tokens = (call["inputs_embeds"] if ids is None else ids).shape[:2]
        past = cached_tokens(call)
        limit = position_limit(self._model)
        if limit is not None and past + tokens + max(shifts) > limit:
            raise DataError(
                f"{past + tokens} tokens and {max(shifts)} virtual tokens are more than the model's {limit} positions;"
                " use shorter rows (--max-length) or fewer virtual tokens"
            )
        shift = torch.zeros(rows, 1, dtype=torch.int64, device=own.device)
        for group, moved in zip(route.groups, shifts, strict=True):
            index = group.index(route.num_rows, rows, shift.device)
            shift[slice(None) if index is None else index] = moved
        counted = positions_without_padding(self._model, call, own) if given is None else given
        return torch.where(shift > 0, counted + shift, own)


def _takes_positions(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, or its body where that alone takes position ids, as in Falcon's models with a head."""
    body = body_of(model)
    return body if takes(body, "position_ids") and not takes(model, "position_ids") else model
