"""Every site of one model, made where an adapter asks for it."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from petune.errors import DataError
from petune.sites.attention import AttentionSites, AttentionSlot, KeysValues, Source, SourcedSlot
from petune.sites.output import OutputSite, OutputSlot
from petune.sites.routing import Route, Routing, Stack
from petune.sites.weights import WeightSite, WeightSlot

Slot = OutputSlot | WeightSlot | AttentionSlot
"""What an adapter learned at one place; its class says which site it belongs to."""


@final
class Sites:
    """The sites of ``model`` that are in use, by path (of a sub-module, or of a parameter for weights)."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.routing = Routing()
        self._model = model
        self._outputs: dict[str, OutputSite] = {}
        self._weights: dict[str, WeightSite] = {}
        self._attention = AttentionSites(model, self.routing)
        self._slots: dict[str, dict[str, AttentionSlot]] = {}
        self._sources: dict[str, Source] = {}
        self._plugged: dict[str, Mapping[str, Slot]] = {}
        self._kept: dict[str, tuple[object, Mapping[str, KeysValues]]] = {}
        self._handle: RemovableHandle | None = None

    def plug(self, name: str, slots: Mapping[str, Slot], source: Source | None = None) -> None:
        """Plug the slots of adapter ``name`` in, each at its path; undo all of it where one cannot be."""
        done: dict[str, Slot] = {}
        try:
            for path, slot in slots.items():
                self._plug(name, path, slot)
                done[path] = slot
        except BaseException:
            self.unplug(name, done)
            raise
        self._plugged[name] = slots
        if source is not None:
            self._sources[name] = source
        if self._slots and self._handle is None:
            self._handle = self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def unplug(self, name: str, slots: Mapping[str, Slot]) -> None:
        """Remove the slots of adapter ``name``; unused sites disappear."""
        for path, slot in slots.items():
            self._unplug(name, path, slot)
        self._plugged.pop(name, None)
        self._sources.pop(name, None)
        self._slots.pop(name, None)
        self.forget()
        if not self._slots and self._handle is not None:
            self._handle.remove()
            self._handle = None

    def clear(self) -> None:
        """Unplug everything."""
        for name, slots in list(self._plugged.items()):
            self.unplug(name, slots)

    def forget(self) -> None:
        """Forget keys and values kept from earlier passes; call it when weights of the base change."""
        self._kept.clear()

    def in_use(self, module: nn.Module) -> bool:
        """Say whether a slot is plugged into the output of ``module``."""
        return any(site.module is module for site in self._outputs.values())

    def _plug(self, name: str, path: str, slot: Slot) -> None:
        if isinstance(slot, OutputSlot):
            site = self._outputs.setdefault(path, OutputSite(self._model.get_submodule(path), self.routing))
            site.plug(name, slot)
        elif isinstance(slot, WeightSlot):
            self._weights.setdefault(path, WeightSite.find(self._model, path)).plug(name, slot)
        else:
            self._attention.plug(name, path, slot)
            self._slots.setdefault(name, {})[path] = slot

    def _unplug(self, name: str, path: str, slot: Slot) -> None:
        if isinstance(slot, OutputSlot):
            output = self._outputs[path]
            output.unplug(name)
            if not output.slots:
                del self._outputs[path]
        elif isinstance(slot, WeightSlot):
            self._weights.pop(path).unplug(name)
        else:
            self._attention.unplug(name, path)

    def _before_forward(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Compute what the route's sources give, and move the positions of rows with virtual tokens."""
        route = self.routing.route
        for name in {name for group in route.groups for name in group.stack if name in self._sources}:
            for slot in self._slots[name].values():
                assert isinstance(slot, SourcedSlot)
                slot.current = {}
            for group in route.groups:
                if name in group.stack:
                    self._prepare(name, group.stack)
        shifts = [self._shift(group.stack) for group in route.groups]
        if not any(shifts):
            return None
        limit = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return args, {**kwargs, "position_ids": _shifted(route, shifts, args, kwargs, limit)}

    def _shift(self, stack: Stack) -> int:
        return sum(
            max(slot.position_shift for slot in self._slots[name].values()) for name in stack if name in self._slots
        )

    def _prepare(self, name: str, stack: Stack) -> None:
        source = self._sources[name]
        keep = not torch.is_grad_enabled() and not source.training and stack == (name,)
        version = tuple((id(p), p._version) for p in source.parameters())
        kept_version, values = self._kept.get(name, (None, None))
        if values is None or not keep or kept_version != version:
            values = source(lambda embeddings: self._read(name, stack, embeddings))
            if keep:
                self._kept[name] = (version, values)
        for path, slot in self._slots[name].items():
            assert isinstance(slot, SourcedSlot)
            slot.current[stack] = values[path]

    def _read(self, name: str, stack: Stack, embeddings: Tensor) -> Mapping[str, KeysValues]:
        """Return the keys and values that the base makes of ``embeddings`` [P, d] at the adapter's attentions."""
        others = tuple(n for n in stack if n != name and n not in self._slots)
        dtype = self._model.dtype
        with (
            self.routing.use(Route.everywhere(others)),
            self._attention.watch(tuple(self._slots[name])) as seen,
        ):
            self._model.base_model(inputs_embeds=embeddings[None].to(dtype), use_cache=False)
        return {path: (calls[0][0][0], calls[0][1][0]) for path, calls in seen.items()}


def _shifted(
    route: Route, shifts: list[int], args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int | None
) -> Tensor:
    """Return position ids [B, T] moved by each row's shift.

    Raises:
        DataError: tokens and virtual tokens together are more than the model's ``limit`` of positions.
    """
    inputs = kwargs.get("input_ids", args[0] if args else None)
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    rows, tokens = inputs.shape[:2]
    shift = torch.zeros(rows, 1, dtype=torch.int64, device=inputs.device)
    for group, moved in zip(route.groups, shifts, strict=True):
        index = group.index(route.num_rows, rows, inputs.device)
        shift[slice(None) if index is None else index] = moved
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else cache.get_seq_length()
    if limit is not None and past + tokens + max(shifts) > limit:
        raise DataError(
            f"{past + tokens} tokens and {max(shifts)} virtual tokens are more than the model's {limit} positions;"
            " use shorter rows (--max-length) or fewer virtual tokens"
        )
    positions = kwargs.get("position_ids")
    if positions is None:
        positions = torch.arange(past, past + tokens, device=inputs.device)[None]
    return torch.as_tensor(positions + shift)
